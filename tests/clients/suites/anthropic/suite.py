"""Anthropic's client against ``/v1/messages``: text, streams, tools, errors, counted tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

MODEL = "puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"name": "get_weather", "description": "Weather of a city.", "input_schema": SCHEMA}]


@pytest.fixture
def client() -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(max_retries=0) as made:
        yield made


def ask(play: str, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"play {play}."}
    return {"model": MODEL, "max_tokens": 200, "system": "Be brief.", "messages": [message], **more}


def kinds(message: Any) -> list[str]:
    return [block.type for block in message.content]


def calls(message: Any) -> list[Any]:
    return [block for block in message.content if block.type == "tool_use"]


def answered(message: Any, *texts: str) -> list[dict[str, Any]]:
    """The turn of an assistant and the results of its calls."""
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": text}
        for call, text in zip(calls(message), texts, strict=True)
    ]
    return [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]


def test_a_message_has_text_and_usage(client: anthropic.Anthropic) -> None:
    """What a script prints first."""
    message = client.messages.create(**ask("nothing"))
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert [block.text for block in message.content] == [SENTENCE]
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


def test_a_system_prompt_of_blocks_is_cached(client: anthropic.Anthropic) -> None:
    """Blocks with ``cache_control``; the second usage says what was read from the cache."""
    block = {"type": "text", "text": "Remember all of this. " * 20, "cache_control": {"type": "ephemeral"}}
    client.messages.create(**ask("nothing", system=[block]))
    usage = client.messages.create(**ask("nothing", system=[block])).usage
    assert usage.cache_read_input_tokens
    assert usage.input_tokens < 40


def test_a_stream_is_put_together(client: anthropic.Anthropic) -> None:
    """The helper's text, its final message, and the raw events in their order."""
    with client.messages.stream(**ask("nothing")) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == final.content[0].text == SENTENCE
    assert final.usage.output_tokens > 0
    events = [event.type for event in client.messages.create(**ask("nothing"), stream=True)]
    first = ["message_start", "content_block_start"]
    assert [e for e in events if e != "ping"][:2] == first
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@pytest.mark.anyio
async def test_the_asynchronous_client() -> None:
    """Whole and streamed."""
    async with anthropic.AsyncAnthropic(max_retries=0) as client:
        assert (await client.messages.create(**ask("nothing"))).content[0].text == SENTENCE
        async with client.messages.stream(**ask("nothing")) as stream:
            assert "".join([piece async for piece in stream.text_stream]) == SENTENCE


def test_two_rounds_of_calls(client: anthropic.Anthropic) -> None:
    """The loop, its own blocks sent back, text beside the first call."""
    asked = ask("rounds", tools=TOOLS)
    first = client.messages.create(**asked)
    assert first.stop_reason == "tool_use"
    assert kinds(first) == ["text", "tool_use"]
    assert [(c.name, c.input) for c in calls(first)] == [("get_weather", {"city": "Oslo"})]
    asked["messages"] += answered(first, "cold")
    second = client.messages.create(**asked)
    assert [c.input for c in calls(second)] == [{"city": "Rome"}]
    asked["messages"] += answered(second, "warm")
    last = client.messages.create(**asked)
    assert (last.content[0].text, last.stop_reason) == ("Rome is warmer than Oslo.", "end_turn")


def test_parallel_calls_streamed(client: anthropic.Anthropic) -> None:
    """Two calls in one answer, both results in one turn."""
    asked = ask("pair", tools=TOOLS)
    with client.messages.stream(**asked) as stream:
        message = stream.get_final_message()
    assert [c.input for c in calls(message)] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert len({c.id for c in calls(message)}) == 2
    asked["messages"] += answered(message, "cold", "warm")
    assert client.messages.create(**asked).content[0].text == "Rome is warmer than Oslo."


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=["any", "tool"])
def test_a_call_can_be_required(client: anthropic.Anthropic, choice: Any) -> None:
    """Any, or one by name; one at a time."""
    message = client.messages.create(**ask("call", tools=TOOLS, tool_choice=choice))
    assert [c.input for c in calls(message)] == [{"city": "Berlin"}]
    alone = choice | {"disable_parallel_tool_use": True}
    assert len(calls(client.messages.create(**ask("call", tools=TOOLS, tool_choice=alone)))) == 1


def test_calls_can_be_forbidden(client: anthropic.Anthropic) -> None:
    """``none``: no call, whatever the model wants."""
    message = client.messages.create(**ask("call", tools=TOOLS, tool_choice={"type": "none"}))
    assert not calls(message)


def test_the_tool_runner_loops(client: anthropic.Anthropic) -> None:
    """The client's own loop over functions."""
    asked: list[str] = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Weather of a city."""
        asked.append(city)
        return f"sunny in {city}"

    runner = client.beta.messages.tool_runner(**ask("rounds"), tools=[get_weather])
    assert runner.until_done().content[0].text == "Rome is warmer than Oslo."
    assert asked == ["Oslo", "Rome"]


def test_reasoning_is_a_block_of_its_own(client: anthropic.Anthropic) -> None:
    """Before the text, and it may be sent back."""
    asked = ask("musing")
    message = client.messages.create(**asked)
    assert kinds(message) == ["thinking", "text"]
    assert message.content[0].thinking == "An easy one."
    asked["messages"].append({"role": "assistant", "content": message.content})
    asked["messages"].append({"role": "user", "content": "play nothing."})
    assert client.messages.create(**asked).content[-1].text == SENTENCE


def test_why_an_answer_ends(client: anthropic.Anthropic) -> None:
    """Its tokens are used up, or a stop sequence came."""
    assert client.messages.create(**ask("nothing") | {"max_tokens": 2}).stop_reason == "max_tokens"
    message = client.messages.create(**ask("nothing"), stop_sequences=[", as"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", ", as")
    assert message.content[0].text == "Paris is the capital of France"


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    """As many as the usage says afterwards."""
    asked = ask("nothing", tools=TOOLS)
    del asked["max_tokens"]
    counted = client.messages.count_tokens(**asked).input_tokens
    usage = client.messages.create(**asked, max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0) + (
        usage.cache_creation_input_tokens or 0
    )


def test_errors_are_the_clients_own(client: anthropic.Anthropic) -> None:
    """A wrong key, a wrong model, a wrong value; each with the type that it has at Anthropic."""
    with anthropic.Anthropic(api_key="sk-no", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            stranger.messages.create(**ask("nothing"))
    assert unknown.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**ask("nothing") | {"model": "claude-9"})
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as wrong:
        client.messages.create(**ask("nothing"), extra_body={"temperature": 7})
    assert wrong.value.body["error"]["type"] == "invalid_request_error"
