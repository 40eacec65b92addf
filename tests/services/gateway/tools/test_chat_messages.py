"""Events as the objects of the chat API."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessage

from quire_services.gateway.tools.parser.events import AnswerEvent
from quire_services.gateway.tools.shapes.chat_messages import ChatMessages, new_call_id
from tests.services.gateway.tools.samples import WELL_FORMED, parsed


def messages() -> ChatMessages:
    numbers = itertools.count()
    return ChatMessages(lambda: f"call_{next(numbers)}")


TEXT = 'Sure.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def test_a_whole_message() -> None:
    made = messages()
    assert made.message(parsed("hermes", f"<think>\nHm.\n</think>\n\n{TEXT}")) == {
        "role": "assistant",
        "content": "Sure.",
        "refusal": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        ],
    }
    assert made.finish_reason("stop") == "tool_calls"
    assert made.finish_reason("length") == "length"


def test_a_message_of_calls_alone_has_no_content_and_an_empty_one_has() -> None:
    assert messages().message(parsed("hermes", TEXT.removeprefix("Sure.\n")))["content"] is None
    made = messages()
    assert made.message([]) == {"role": "assistant", "content": "", "refusal": None}
    assert made.finish_reason("stop") == "stop"
    assert made.finish_reason(None) is None


def test_streamed_deltas() -> None:
    assert messages().deltas(parsed("hermes", TEXT)) == [
        {"content": "Sure."},
        {
            "tool_calls": [
                {"index": 0, "id": "call_0", "type": "function", "function": {"name": "weather", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Rome"}'}}]},
    ]


def test_the_id_that_the_model_writes_is_kept() -> None:
    made = messages().message(parsed("mistral", "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}"))
    assert made["tool_calls"][0]["id"] == "abcdefghi"


def _put_together(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """A message as a client puts it together."""
    out: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for delta in deltas:
        for piece in delta.get("tool_calls", ()):
            calls = out.setdefault("tool_calls", [])
            if piece["index"] == len(calls):
                calls.append({key: piece[key] for key in ("id", "type", "function")})
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        for key in ("content", "reasoning_content"):
            if key in delta:
                out[key] = (out.get(key) or "") + delta[key]
    return out


@pytest.mark.parametrize(("family", "text", "expected"), WELL_FORMED)
def test_a_stream_is_the_whole_message_in_pieces(family: str, text: str, expected: list[Any]) -> None:
    """One character at a time, and as the official client's types have it."""
    streamed, whole = messages(), messages()
    events: list[AnswerEvent] = parsed(family, *text)
    deltas = [delta for event in events for delta in streamed.deltas([event])]
    message = whole.message(parsed(family, text))
    assert _put_together(deltas) == message
    ChatCompletionMessage.model_validate(message)
    for delta in deltas:
        chunk = {"id": "c", "created": 0, "model": "m", "object": "chat.completion.chunk"}
        ChatCompletionChunk.model_validate({**chunk, "choices": [{"index": 0, "delta": delta}]})
    assert streamed.called == whole.called == sum(not isinstance(one, str) for one in expected)


def test_new_ids_differ() -> None:
    made = {new_call_id() for _ in range(100)}
    assert len(made) == 100
    assert all(identity.startswith("call_") and len(identity) == 29 for identity in made)
