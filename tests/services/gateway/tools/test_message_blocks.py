"""Events as the blocks of messages."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from quire_services.gateway.tools.shapes.message_blocks import MessageBlocks
from tests.services.gateway.tools.samples import parsed

ANSWER = (
    '<think>\nHm.\n</think>\n\nSure.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
)
CUT = '<tool_call>\n{"name": "weather", "arguments": {"ci'


def numbered(prefix: str) -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"{prefix}{next(numbers)}"


def test_the_blocks_of_a_message() -> None:
    made = MessageBlocks(numbered("toolu_"))
    events = made.events(parsed("hermes", ANSWER)) + made.finish()
    assert made.content() == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Sure."},
        {"type": "tool_use", "id": "toolu_0", "name": "weather", "input": {"city": "Rome"}},
    ]
    assert [(event["type"], event["index"]) for event in events] == [
        (f"content_block_{what}", index) for index in range(3) for what in ("start", "delta", "stop")
    ]
    assert [event["delta"] for event in events if "delta" in event] == [
        {"type": "thinking_delta", "thinking": "Hm."},
        {"type": "text_delta", "text": "Sure."},
        {"type": "input_json_delta", "partial_json": '{"city": "Rome"}'},
    ]
    assert events[6]["content_block"] == {"type": "tool_use", "id": "toolu_0", "name": "weather", "input": {}}


@pytest.mark.parametrize(
    ("text", "finish", "stop_string", "reason"),
    [
        (ANSWER, "stop", False, "tool_use"),
        (ANSWER, "length", False, "max_tokens"),
        ("Hello.", "stop", False, "end_turn"),
        ("Hello.", "length", False, "max_tokens"),
        ("Hello.", "stop", True, "stop_sequence"),
    ],
)
def test_why_a_message_ends(text: str, finish: str, stop_string: bool, reason: str) -> None:
    made = MessageBlocks()
    made.events(parsed("hermes", text))
    assert made.stop_reason(finish, stop_string) == reason


def test_arguments_that_are_no_object_are_seen() -> None:
    made = MessageBlocks(numbered("toolu_"))
    made.events(parsed("hermes", CUT))
    made.finish()
    assert made.content() == [
        {"type": "tool_use", "id": "toolu_0", "name": "weather", "input": {"arguments": '{"ci'}},
    ]
