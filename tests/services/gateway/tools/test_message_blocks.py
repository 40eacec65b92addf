"""Events as the blocks of messages."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from quire_services.gateway.tools.parser.events import ArgumentsDelta, ToolCallBegin, ToolCallEnd
from quire_services.gateway.tools.shapes.message_blocks import MessageBlocks
from tests.services.gateway.tools.samples import parsed

ANSWER = (
    '<think>\nHm.\n</think>\n\nSure.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
)
SIGNATURE = hashlib.sha256(b"Hm.").hexdigest()


def numbered(prefix: str) -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"{prefix}{next(numbers)}"


def test_the_blocks_of_a_message() -> None:
    made = MessageBlocks(new_id=numbered("toolu_"))
    events = made.events(parsed("hermes", ANSWER)) + made.finish()
    assert made.content() == [
        {"type": "thinking", "thinking": "Hm.", "signature": SIGNATURE},
        {"type": "text", "text": "Sure."},
        {"type": "tool_use", "id": "toolu_0", "name": "weather", "input": {"city": "Rome"}},
    ]
    assert [(event["type"], event["index"]) for event in events] == [
        (f"content_block_{what}", index)
        for index, deltas in ((0, 2), (1, 1), (2, 1))
        for what in ("start", *["delta"] * deltas, "stop")
    ]
    assert [event["delta"] for event in events if "delta" in event] == [
        {"type": "thinking_delta", "thinking": "Hm."},
        {"type": "signature_delta", "signature": SIGNATURE},
        {"type": "text_delta", "text": "Sure."},
        {"type": "input_json_delta", "partial_json": '{"city": "Rome"}'},
    ]
    assert events[7]["content_block"] == {"type": "tool_use", "id": "toolu_0", "name": "weather", "input": {}}


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


@pytest.mark.parametrize(
    ("arguments", "input"),
    [('{"ci', {}), ('{"city": "Rome", "da', {"city": "Rome"}), ('["Rome"]', {"arguments": '["Rome"]'})],
)
def test_arguments_are_told_as_far_as_they_came(arguments: str, input: dict[str, Any]) -> None:
    """Of a call that was cut off what is complete; what is no object by itself."""
    made = MessageBlocks(new_id=numbered("toolu_"))
    made.events([ToolCallBegin(0, "weather"), ArgumentsDelta(0, arguments), ToolCallEnd(0)])
    made.finish()
    assert made.content() == [{"type": "tool_use", "id": "toolu_0", "name": "weather", "input": input}]
