"""The official client: chats and their streams, tools, structured output, errors, completions."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from weather import ANSWER, BERLIN, MODEL, PARAMETERS, SENTENCE, Weather

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "Weather.", "strict": True, "parameters": PARAMETERS},
    }
]


def ask(play: str, *, before: str = "", **more: Any) -> dict[str, Any]:
    system = [{"role": "system", "content": before}] if before else []
    return {"model": MODEL, "messages": [*system, {"role": "user", "content": f"play {play}."}], **more}


def cities(message: Any) -> list[str]:
    assert all(call.function.name == "get_weather" for call in message.tool_calls)
    return [json.loads(call.function.arguments)["city"] for call in message.tool_calls]


def test_a_chat_has_text_usage_and_ids(client: openai.OpenAI) -> None:
    """What a script prints first."""
    answer = client.chat.completions.create(**ask("nothing"))
    assert answer.choices[0].message.content == SENTENCE
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")
    assert answer._request_id


def test_a_prompt_that_was_seen_is_cached(client: openai.OpenAI) -> None:
    """The second usage says how much of the prompt was not computed."""
    asked = ask("nothing", before="Remember all of this. " * 20)
    client.chat.completions.create(**asked)
    usage = client.chat.completions.create(**asked).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens is not None
    assert usage.prompt_tokens_details.cached_tokens > usage.prompt_tokens - 32


@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same() -> None:
    """Whole and streamed."""
    async with openai.AsyncOpenAI(max_retries=0) as client:
        answer = await client.chat.completions.create(**ask("nothing"))
        assert answer.choices[0].message.content == SENTENCE
        pieces = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(**ask("nothing"), stream=True)
        ]
    assert len(pieces) > 3
    assert "".join(pieces) == SENTENCE


def test_a_stream_ends_with_its_reason_and_its_usage(client: openai.OpenAI) -> None:
    """The role first, then text, the reason, and the usage without a choice."""
    chunks = list(client.chat.completions.create(**ask("nothing"), stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_the_streams_helper_tells_events(client: openai.OpenAI) -> None:
    """``chat.completions.stream()`` puts the answer together."""
    with client.chat.completions.stream(**ask("nothing")) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == SENTENCE


def test_a_call_and_its_result_come_to_an_answer(client: openai.OpenAI) -> None:
    """The loop that every agent is made of."""
    asked = ask("call", tools=TOOLS)
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    assert cities(choice.message) == ["Berlin"]
    result = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "sunny, 21"}
    asked["messages"] += [choice.message, result]
    assert client.chat.completions.create(**asked).choices[0].message.content == ANSWER


def test_two_rounds_of_calls_with_text_before_one(client: openai.OpenAI) -> None:
    """Text beside a call is kept, and the second round has a call of its own."""
    asked = ask("rounds", tools=TOOLS)
    seen = []
    for _ in range(2):
        message = client.chat.completions.create(**asked).choices[0].message
        seen.append((message.content or "", cities(message)))
        asked["messages"].append(message.model_dump(exclude_none=True))
        asked["messages"].append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "5"})
    assert seen == [("First the north.", ["Oslo"]), ("", ["Rome"])]
    assert client.chat.completions.create(**asked).choices[0].message.content == "Rome is warmer than Oslo."


def test_calls_in_parallel(client: openai.OpenAI) -> None:
    """Two calls in one answer have ids of their own; forbidden, the answer has the first alone."""
    message = client.chat.completions.create(**ask("pair", tools=TOOLS)).choices[0].message
    assert cities(message) == ["Oslo", "Rome"]
    assert len({call.id for call in message.tool_calls}) == 2
    alone = client.chat.completions.create(**ask("pair", tools=TOOLS, parallel_tool_calls=False))
    assert cities(alone.choices[0].message) == ["Oslo"]


def test_streamed_calls_are_put_together(client: openai.OpenAI) -> None:
    """Names come once and whole, arguments in pieces."""
    chunks = list(client.chat.completions.create(**ask("pair", tools=TOOLS), stream=True))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.function.name for call in deltas if call.function.name] == ["get_weather", "get_weather"]
    arguments = ["".join(c.function.arguments or "" for c in deltas if c.index == index) for index in (0, 1)]
    assert [json.loads(text) for text in arguments] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"]
)
def test_a_call_can_be_required(client: openai.OpenAI, choice: Any) -> None:
    """Any, or one by name."""
    message = client.chat.completions.create(**ask("call", tools=TOOLS, tool_choice=choice)).choices[0].message
    assert cities(message) == ["Berlin"]


def test_some_tools_can_be_allowed(client: openai.OpenAI) -> None:
    """``allowed_tools``: of those that the prompt shows, some may be called."""
    other = {"type": "function", "function": {"name": "get_time", "parameters": PARAMETERS}}
    named = [{"type": "function", "function": {"name": "get_weather"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}
    asked = ask("call", tools=[*TOOLS, other], tool_choice=choice)
    assert cities(client.chat.completions.create(**asked).choices[0].message) == ["Berlin"]


def test_calls_can_be_forbidden(client: openai.OpenAI) -> None:
    """``none``: an answer without calls, whatever the model wants."""
    choice = client.chat.completions.create(**ask("call", tools=TOOLS, tool_choice="none")).choices[0]
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"


def test_reasoning_is_told_beside_the_answer(client: openai.OpenAI) -> None:
    """``reasoning_content``, streamed too."""
    message = client.chat.completions.create(**ask("musing")).choices[0].message
    assert (message.content, message.reasoning_content) == ("It is Madrid, of course.", "An easy one.")
    chunks = client.chat.completions.create(**ask("thoughtful", tools=TOOLS), stream=True)
    thought = "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks)
    assert thought == "The user asks for weather."


def test_parse_returns_objects(client: openai.OpenAI) -> None:
    """A class as ``response_format``."""
    message = client.chat.completions.parse(**ask("object"), response_format=Weather).choices[0].message
    assert message.parsed == BERLIN


def test_parse_reads_the_arguments_of_tools(client: openai.OpenAI) -> None:
    """``pydantic_function_tool``."""
    asked = ask("record", tools=[openai.pydantic_function_tool(Weather)])
    message = client.chat.completions.parse(**asked).choices[0].message
    assert [call.function.parsed_arguments for call in message.tool_calls or []] == [BERLIN]


def test_a_streamed_object_is_parsed(client: openai.OpenAI) -> None:
    """``stream()`` with a class."""
    with client.chat.completions.stream(**ask("object"), response_format=Weather) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed == BERLIN


def test_any_object_can_be_asked_for(client: openai.OpenAI) -> None:
    """``json_object``."""
    asked = ask("object", response_format={"type": "json_object"})
    content = client.chat.completions.create(**asked).choices[0].message.content
    assert json.loads(content or "") == BERLIN.model_dump()


def test_several_choices(client: openai.OpenAI) -> None:
    """``n`` of them, streamed too."""
    assert [c.message.content for c in client.chat.completions.create(**ask("nothing"), n=3).choices] == [SENTENCE] * 3
    chunks = client.chat.completions.create(**ask("nothing"), n=3, stream=True)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1, 2}


def test_log_probabilities(client: openai.OpenAI) -> None:
    """Of each token and of those that might have been."""
    answer = client.chat.completions.create(**ask("nothing"), logprobs=True, top_logprobs=2, max_tokens=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [len(token.top_logprobs) for token in logprobs.content] == [2, 2]
    assert answer.choices[0].finish_reason == "length"


def test_common_settings_are_taken(client: openai.OpenAI) -> None:
    """What templates of applications send along."""
    answer = client.chat.completions.create(
        **ask("nothing"), temperature=0.2, top_p=0.9, frequency_penalty=0.1, presence_penalty=0.1, seed=7, stop=["END"],
        max_completion_tokens=100, user="u1", metadata={"a": "b"}, store=False, service_tier="auto",
    )  # fmt: skip
    assert answer.choices[0].message.content


def test_completions(client: openai.OpenAI) -> None:
    """The older API, several prompts at once."""
    answer = client.completions.create(model=MODEL, prompt=["one", "two"], max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_models_are_listed(client: openai.OpenAI) -> None:
    """One by name, too."""
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    """A wrong key, a wrong model, a wrong value, a wrong schema, and a prompt that is too long."""
    with openai.OpenAI(api_key="sk-no", max_retries=0) as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**ask("nothing") | {"model": "gpt-9"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(**ask("nothing"), temperature=3)
    assert wrong.value.param == "temperature"
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ask("nothing"), response_format=schema)
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**ask("nothing", before="x " * 20_000))
    assert long.value.code == "context_length_exceeded"


def test_a_timeout_is_the_clients_own(client: openai.OpenAI) -> None:
    """The server is there, and at work for longer."""
    long: Any = {"ignore_eos": True, "max_tokens": 8000}
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).chat.completions.create(**ask("nothing"), extra_body=long)


def test_what_is_not_served_is_refused(client: openai.OpenAI) -> None:
    """Embeddings by a sentence, others as unknown."""
    with pytest.raises(openai.APIStatusError, match="mbedding"):
        client.embeddings.create(model=MODEL, input="x")
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(input="x")
