"""Events as the items of responses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from quire_services.gateway.tools.parser.events import ContentDelta, ReasoningDelta, ToolCallBegin
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


def test_an_answer_that_is_cut_ends_in_an_item_that_says_so() -> None:
    """In the stream, too; what was complete before stays so."""
    made = items()
    events = made.events([ReasoningDelta("Hm."), ContentDelta("Su")]) + made.finish(cut=True)
    assert [item["status"] for item in made.output()] == ["completed", "incomplete"]
    assert events[-1]["item"] == made.output()[1]
    whole = items()
    whole.events(parsed("hermes", ANSWER))
    whole.finish(cut=True)
    assert [item["status"] for item in whole.output()] == ["completed"] * 3


def test_an_answer_without_a_word_is_a_message() -> None:
    """Streamed as any other, but for its text."""
    made = items()
    types = [event["type"].removeprefix("response.") for event in made.finish()]
    assert types == [
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    (message,) = made.output()
    assert (message["type"], message["status"], message["content"][0]["text"]) == ("message", "completed", "")


def test_each_token_is_counted_where_it_is_told() -> None:
    """Log-probabilities go with the text that their tokens have become; reasoning is counted by itself."""
    made = items()
    entries = [{"token": str(number)} for number in range(7)]
    made.events([], entries[:1])
    made.events([ReasoningDelta("Hm.", 3)], entries[1:3])
    said = made.events([ContentDelta("Su", 2), ContentDelta("re", 1)], entries[3:6])
    made.events([ToolCallBegin(0, "f", tokens=1)], entries[6:])
    made.finish()
    assert made.reasoning_tokens == 3
    delta = next(event for event in said if event["type"] == "response.output_text.delta")
    assert delta["logprobs"] == made.output()[1]["content"][0]["logprobs"] == entries[3:6]
