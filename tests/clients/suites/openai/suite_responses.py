"""The official client's Responses API: text, streams, functions, conversations that are kept, objects, reasoning."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from weather import ANSWER, MODEL, PARAMETERS, SENTENCE, Weather

TOOLS: list[Any] = [{"type": "function", "name": "get_weather", "strict": True, "parameters": PARAMETERS}]


def ask(play: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "instructions": "Be brief.", "input": f"play {play}.", **more}


def calls(response: Any) -> list[Any]:
    return [item for item in response.output if item.type == "function_call"]


def results(response: Any, *texts: str) -> list[dict[str, str]]:
    return [
        {"type": "function_call_output", "call_id": call.call_id, "output": text}
        for call, text in zip(calls(response), texts, strict=True)
    ]


def test_a_response_has_text_and_usage(client: openai.OpenAI) -> None:
    """What a script prints first."""
    response = client.responses.create(**ask("nothing"))
    assert (response.output_text, response.status, response.model) == (SENTENCE, "completed", MODEL)
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_stream_has_events_in_their_order(client: openai.OpenAI) -> None:
    """From created to completed; the helper puts them together."""
    events = [event.type for event in client.responses.create(**ask("nothing"), stream=True)]
    assert events[0] == "response.created"
    assert events.count("response.output_text.delta") > 3
    assert events[-1] == "response.completed"
    with client.responses.stream(**ask("nothing")) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == SENTENCE


@pytest.mark.anyio
async def test_the_asynchronous_client() -> None:
    """The same awaited."""
    async with openai.AsyncOpenAI(max_retries=0) as client:
        assert (await client.responses.create(**ask("nothing"))).output_text == SENTENCE


def test_two_rounds_of_calls_with_all_items(client: openai.OpenAI) -> None:
    """Nothing is kept; the output is sent back as it came."""
    asked = ask("rounds", tools=TOOLS, store=False)
    asked["input"] = [{"role": "user", "content": asked["input"]}]
    seen = []
    for _ in range(2):
        response = client.responses.create(**asked)
        seen += [json.loads(call.arguments)["city"] for call in calls(response)]
        asked["input"] += [*response.output, *results(response, "21")]
    assert seen == ["Oslo", "Rome"]
    assert client.responses.create(**asked).output_text == "Rome is warmer than Oslo."


def test_a_conversation_that_is_kept(client: openai.OpenAI) -> None:
    """``previous_response_id``: only what is new is sent, calls in parallel among it; then it is deleted."""
    first = client.responses.create(**ask("pair", tools=TOOLS))
    assert [json.loads(call.arguments)["city"] for call in calls(first)] == ["Oslo", "Rome"]
    answers = results(first, "cold", "warm")
    second = client.responses.create(model=MODEL, previous_response_id=first.id, input=answers, tools=TOOLS)
    assert second.output_text == "Rome is warmer than Oslo."
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


def test_streamed_calls(client: openai.OpenAI) -> None:
    """Arguments in pieces, and whole at the end."""
    events = list(client.responses.create(**ask("call", tools=TOOLS), stream=True))
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    whole = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
    assert "".join(pieces) == whole[0] == '{"city": "Berlin"}'


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}], ids=["required", "named"])
def test_a_call_can_be_required(client: openai.OpenAI, choice: Any) -> None:
    """Any, or one by name."""
    response = client.responses.create(**ask("call", tools=TOOLS, tool_choice=choice))
    assert [call.name for call in calls(response)] == ["get_weather"]


def test_an_object_by_its_schema(client: openai.OpenAI) -> None:
    """``responses.parse``."""
    parsed = client.responses.parse(**ask("object"), text_format=Weather).output_parsed
    assert parsed == Weather(city="Berlin", degrees=21)


def test_reasoning_is_an_item(client: openai.OpenAI) -> None:
    """Before the message, and it may be sent back."""
    asked = ask("thoughtful", tools=TOOLS)
    asked["input"] = [{"role": "user", "content": asked["input"]}]
    response = client.responses.create(**asked)
    assert [item.type for item in response.output] == ["reasoning", "function_call"]
    asked["input"] += [*response.output, *results(response, "21")]
    assert client.responses.create(**asked).output_text == ANSWER


def test_an_answer_that_is_cut(client: openai.OpenAI) -> None:
    """Says so, and why."""
    response = client.responses.create(**ask("nothing"), max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    """A wrong model, a wrong value, a conversation that is not there."""
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**ask("nothing") | {"model": "gpt-9"})
    with pytest.raises(openai.BadRequestError):
        client.responses.create(**ask("nothing"), temperature=3)
    with pytest.raises(openai.APIStatusError):
        client.responses.create(**ask("nothing"), previous_response_id="resp_none")
