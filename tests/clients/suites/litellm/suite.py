"""LiteLLM as a library: the routes ``openai/``, ``hosted_vllm/`` and ``anthropic/`` to one server."""

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest
from pydantic import BaseModel

MODEL = "puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
BERLIN = {"city": "Berlin", "degrees": 21}
litellm.suppress_debug_info = True


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.fixture(params=["openai", "hosted_vllm", "anthropic"])
def route(request: pytest.FixtureRequest, address: str, url: str, key: str) -> dict[str, Any]:
    base = address if request.param == "anthropic" else url
    return {"model": f"{request.param}/{MODEL}", "api_base": base, "api_key": key, "num_retries": 0}


@pytest.fixture
def chat(url: str, key: str) -> dict[str, Any]:
    return {"model": f"openai/{MODEL}", "api_base": url, "api_key": key, "num_retries": 0}


def ask(play: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"play {play}."}]


def test_a_completion(route: dict[str, Any]) -> None:
    """Text and usage."""
    answer = litellm.completion(messages=ask("nothing"), **route)
    assert answer.choices[0].message.content == SENTENCE
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0


@pytest.mark.anyio
async def test_an_awaited_stream(route: dict[str, Any]) -> None:
    """``acompletion``, in pieces with usage at the end."""
    chunks = [
        chunk
        async for chunk in await litellm.acompletion(
            messages=ask("nothing"), stream=True, stream_options={"include_usage": True}, **route
        )
    ]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == SENTENCE
    assert chunks[-1].usage.completion_tokens > 0


def test_two_rounds_of_calls(route: dict[str, Any]) -> None:
    """The loop, with its own message objects sent back."""
    messages, seen = ask("rounds"), []
    for _ in range(2):
        message = litellm.completion(messages=messages, tools=TOOLS, **route).choices[0].message
        seen += [json.loads(call.function.arguments)["city"] for call in message.tool_calls]
        messages.append(message)
        messages.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "21"})
    assert seen == ["Oslo", "Rome"]
    last = litellm.completion(messages=messages, tools=TOOLS, **route)
    assert last.choices[0].message.content == "Rome is warmer than Oslo."


def test_streamed_calls_are_put_together(route: dict[str, Any]) -> None:
    """``stream_chunk_builder``, two calls in one answer."""
    chunks = list(litellm.completion(messages=ask("pair"), tools=TOOLS, stream=True, **route))
    choice = litellm.stream_chunk_builder(chunks).choices[0]
    assert [json.loads(call.function.arguments)["city"] for call in choice.message.tool_calls] == ["Oslo", "Rome"]
    assert choice.finish_reason == "tool_calls"


def test_a_call_can_be_required(route: dict[str, Any]) -> None:
    """``tool_choice``."""
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        answer = litellm.completion(messages=ask("call"), tools=TOOLS, tool_choice=choice, **route)
        assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"


@pytest.mark.parametrize("name", ["openai", "hosted_vllm"])
def test_an_object(chat: dict[str, Any], name: str) -> None:
    """A class as ``response_format``."""
    asked = chat | {"model": f"{name}/{MODEL}"}
    answer = litellm.completion(messages=ask("object"), response_format=Weather, **asked)
    assert json.loads(answer.choices[0].message.content) == BERLIN


@pytest.mark.parametrize("name", ["openai", "hosted_vllm"])
def test_reasoning(chat: dict[str, Any], name: str) -> None:
    """``reasoning_content`` of a message."""
    message = litellm.completion(messages=ask("musing"), **chat | {"model": f"{name}/{MODEL}"}).choices[0].message
    assert (message.reasoning_content, message.content) == ("An easy one.", "It is Madrid, of course.")


def test_settings_pass(chat: dict[str, Any]) -> None:
    """Those of the API, and others that only this server has."""
    answer = litellm.completion(
        messages=ask("nothing"), temperature=0, frequency_penalty=0.5, seed=1, logit_bias={"5": -1}, max_tokens=60,
        stop=[", as"], extra_body={"top_k": 1, "repetition_penalty": 1.01}, **chat,
    )  # fmt: skip
    assert answer.choices[0].message.content == "Paris is the capital of France"


def test_text_completions(chat: dict[str, Any]) -> None:
    """The older API."""
    assert isinstance(litellm.text_completion(prompt="hi", max_tokens=4, **chat).choices[0].text, str)


@pytest.mark.parametrize("name", ["openai", "hosted_vllm"])
def test_the_responses_api(chat: dict[str, Any], name: str) -> None:
    """``responses()``, by the server's own route or over chats."""
    answer = litellm.responses(input="play nothing.", **chat | {"model": f"{name}/{MODEL}"})
    assert answer.output[-1].content[0].text == SENTENCE


def test_errors_are_its_own(chat: dict[str, Any]) -> None:
    """A wrong key, a wrong model, a prompt that is too long."""
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(messages=ask("nothing"), **chat | {"api_key": "sk-no"})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=ask("nothing"), **chat | {"model": "openai/gpt-9"})
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=ask("x " * 20_000), **chat)


def test_a_router_goes_on_to_the_next_server(chat: dict[str, Any]) -> None:
    """One of two does not answer."""
    dead = chat | {"api_base": "http://127.0.0.1:9/v1"}
    router = litellm.Router(
        model_list=[{"model_name": "dead", "litellm_params": dead}, {"model_name": "live", "litellm_params": chat}],
        fallbacks=[{"dead": ["live"]}],
        num_retries=0,
    )
    assert router.completion(model="dead", messages=ask("nothing")).choices[0].message.content == SENTENCE
