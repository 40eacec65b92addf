"""Events as the items of responses and as the blocks of messages."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from quire_services.gateway.tools.shapes.message_blocks import MessageBlocks
from quire_services.gateway.tools.shapes.response_items import ResponseItems
from tests.services.gateway.tools.samples import WELL_FORMED, parsed

ANSWER = (
    '<think>\nHm.\n</think>\n\nSure.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
)
CUT = '<tool_call>\n{"name": "weather", "arguments": {"ci'
STREAM: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ITEM: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)


def numbered(prefix: str) -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"{prefix}{next(numbers)}"


def items() -> ResponseItems:
    return ResponseItems(itertools.count(2).__next__, numbered(""), numbered("call_"))


def test_the_items_of_a_response() -> None:
    made = items()
    made.events(parsed("hermes", ANSWER))
    made.finish()
    text = {"type": "output_text", "text": "Sure.", "annotations": [], "logprobs": []}
    call = {"type": "function_call", "call_id": "call_0", "name": "weather", "arguments": '{"city": "Rome"}'}
    assert made.output() == [
        {
            "id": "rs_0",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
            "status": "completed",
        },
        {"id": "msg_1", "type": "message", "role": "assistant", "content": [text], "status": "completed"},
        {"id": "fc_2", **call, "status": "completed"},
    ]
    assert [item["status"] for item in made.output(cut=True)] == ["completed", "completed", "incomplete"]


def test_the_stream_of_a_response() -> None:
    made = items()
    events = made.events(parsed("hermes", ANSWER)) + made.finish()
    assert [event["sequence_number"] for event in events] == list(range(2, 2 + len(events)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]


@pytest.mark.parametrize(("family", "text"), [*((family, text) for family, text, _ in WELL_FORMED), ("hermes", CUT)])
def test_a_stream_of_items_is_the_whole_in_pieces(family: str, text: str) -> None:
    """One character at a time, as the official client's types have it, and the same items as at once."""
    streamed, whole = items(), items()
    events = [made for event in parsed(family, *text) for made in streamed.events([event])] + streamed.finish()
    whole.events(parsed(family, text))
    whole.finish()
    assert streamed.output() == whole.output()
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == whole.output()
    for event in events:
        assert STREAM.validate_python(event).type == event["type"]
    for item in whole.output():
        ITEM.validate_python(item)


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
