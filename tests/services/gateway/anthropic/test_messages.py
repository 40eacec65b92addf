"""Messages through the official client: a gateway, and an engine that plays scripts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from quire_proto.wire.u32 import unpack_u32
from tests.support.gateway import GatewayProcess
from tests.support.puppet import LONGEST, SCRIPTS
from tests.support.puppet_chats import CITIES, CONTENT, LONG, PARAMETERS, REASONING
from tests.support.puppet_stage import Puppet, Stage, about_puppet

TOOLS: list[Any] = [{"name": "get_weather", "input_schema": PARAMETERS, "cache_control": {"type": "ephemeral"}}]
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
# Names of the events of a stream, those of a block in one.
FRAME = ["message_start", "message_delta", "message_stop"]


def ask(script: str, **more: Any) -> dict[str, Any]:
    """A request that is answered with a script."""
    asked = {"model": "tiny", "max_tokens": 1000, "messages": [{"role": "user", "content": f"play {script}"}]}
    return asked | {"tools": TOOLS} | more


def told(message: Message) -> tuple[Any, ...]:
    """What a message says: text, thinking, cities of its calls, and why it has ended."""
    Message.model_validate(message.model_dump(), strict=True)
    of = {kind: [block for block in message.content if block.type == kind] for kind in ("text", "thinking", "tool_use")}
    assert sum(map(len, of.values())) == len(message.content)
    assert all(call.name == "get_weather" and call.id for call in of["tool_use"])
    assert len({call.id for call in of["tool_use"]}) == len(of["tool_use"])
    assert all(len(thought.signature) == 64 for thought in of["thinking"])
    return (
        "".join(block.text for block in of["text"]),
        "".join(block.thinking for block in of["thinking"]),
        [call.input["city"] for call in of["tool_use"]],
        message.stop_reason,
    )


def expected(script: str) -> tuple[Any, ...]:
    cities = CITIES.get(script, [])
    text = "" if cities and script != "says" else CONTENT[script]
    return text, REASONING.get(script, ""), cities, "tool_use" if cities else "end_turn"


def streamed(client: anthropic.Anthropic, asked: dict[str, Any]) -> Message:
    """A streamed message, as the official client puts it together."""
    with client.messages.stream(**asked) as stream:
        for _ in stream:
            pass
        return stream.get_final_message()


def raw_events(stage: Stage, asked: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event of a stream."""
    text = stage[0].http.post("/v1/messages", json=asked | {"stream": True}).text
    events = [event.split("\n") for event in text.split("\n\n") if event]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("body", [{}, LONG], ids=["short", "long"])
def test_what_a_model_writes_becomes_the_blocks_of_a_message(
    client: anthropic.Anthropic, script: str, body: dict[str, Any]
) -> None:
    """Text, calls, several of them, text before them, reasoning, and what looks like a call; streamed or not."""
    asked = ask(script, extra_body={"filler": body})
    assert told(client.messages.create(**asked)) == expected(script)
    assert told(streamed(client, asked)) == expected(script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_event_is_one_of_the_api_and_in_its_order(stage: Stage, script: str) -> None:
    """A message begins, each block begins, grows and ends before the next, the message's end is told and comes."""
    events = raw_events(stage, ask(script))
    for name, data in events:
        event = EVENT.validate_python(data)
        assert event.type == name
        assert event.model_extra is None or not event.model_extra
    names = [name for name, _ in events]
    assert [name for name in names if not name.startswith("content_block_")] == FRAME
    blocks = [data for name, data in events if name.startswith("content_block_")]
    assert [data["index"] for data in blocks] == sorted(data["index"] for data in blocks)
    for index in range(blocks[-1]["index"] + 1):
        of = [data["type"].removeprefix("content_block_") for data in blocks if data["index"] == index]
        assert of == ["start", *["delta"] * (len(of) - 2), "stop"]
    start, end = events[0][1]["message"], events[-2][1]
    assert (start["content"], start["stop_reason"]) == ([], None)
    assert start["usage"]["output_tokens"] <= end["usage"]["output_tokens"]
    assert end["delta"] == {"stop_reason": expected(script)[3], "stop_sequence": None}


def test_reasoning_is_streamed_and_signed(stage: Stage) -> None:
    """Its deltas, then one signature, before the text's block begins."""
    deltas = [data["delta"] for name, data in raw_events(stage, ask("muses")) if name == "content_block_delta"]
    kinds = [delta["type"] for delta in deltas]
    thought = kinds.index("signature_delta")
    assert set(kinds[:thought]) == {"thinking_delta"}
    assert set(kinds[thought + 1 :]) == {"text_delta"}


def test_the_asynchronous_client_is_answered_too(stage: Stage) -> None:
    """Whole and streamed."""

    async def both() -> tuple[Message, Message]:
        async with anthropic.AsyncAnthropic(base_url=stage[0].url, api_key="any", max_retries=0) as client:
            whole = await client.messages.create(**ask("two"))
            async with client.messages.stream(**ask("two")) as stream:
                return whole, await stream.get_final_message()

    assert [told(message) for message in asyncio.run(both())] == [expected("two")] * 2


def test_an_agent_calls_a_tool_and_says_what_came_of_it(client: anthropic.Anthropic, stage: Stage) -> None:
    """The loop of any framework: the message goes back as it came, results follow, the prompt goes on."""
    messages: list[Any] = [{"role": "user", "content": "play thinks"}]
    answer = client.messages.create(**ask("thinks", messages=messages))
    assert answer.stop_reason == "tool_use"
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "21 degrees"}]}
        for block in answer.content
        if block.type == "tool_use"
    ]
    messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    final = client.messages.create(**ask("final", messages=messages))
    assert told(final) == expected("final")
    first, second = (list(unpack_u32(request.tokens)) for request in stage[1].requests)
    assert second[: len(first) - 1] == first[:-1]  # but for the mark of the script


def test_the_runner_of_tools_comes_to_an_end(client: anthropic.Anthropic) -> None:
    """The official client's own loop, with a function of Python's."""

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"21 degrees in {city}"

    asked: Any = {"model": "tiny", "max_tokens": 500, "messages": [{"role": "user", "content": "play call"}]}
    final = client.beta.messages.tool_runner(tools=[get_weather], **asked).until_done()
    assert final.content[0].text == SCRIPTS["final"]


def test_a_message_says_what_was_read_from_the_cache(client: anthropic.Anthropic, stage: Stage) -> None:
    """The figures of the prompt add up to it, and are the same in a stream."""
    stage[1].cached_tokens = 7
    try:
        whole, stream = client.messages.create(**ask("text")), streamed(client, ask("text"))
        start = raw_events(stage, ask("text"))[0][1]["message"]["usage"]
    finally:
        stage[1].cached_tokens = 0
    prompt = len(unpack_u32(stage[1].requests[0].tokens))
    used = whole.usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.cache_creation_input_tokens) == (prompt - 7, 7, 0)
    assert used.output_tokens == stream.usage.output_tokens > 1
    assert (stream.usage.input_tokens, stream.usage.cache_read_input_tokens) == (prompt - 7, 7)
    assert (start["input_tokens"], start["cache_read_input_tokens"]) == (prompt - 7, 7)


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_sequence_that_ended_a_message_is_told(client: anthropic.Anthropic, stream: bool) -> None:
    """Not the others, and nothing of it is in the text."""
    asked = ask("text", stop_sequences=["London", "capital"])
    message = streamed(client, asked) if stream else client.messages.create(**asked)
    assert (told(message)[0], message.stop_reason, message.stop_sequence) == (
        "Paris is the ",
        "stop_sequence",
        "capital",
    )


def test_a_message_that_is_cut_says_by_what(client: anthropic.Anthropic) -> None:
    """By what was asked for, or by the end of the context, which is no error; a call is told as far as it came."""
    assert client.messages.create(**ask("text", max_tokens=3)).stop_reason == "max_tokens"
    cut = client.messages.create(**ask("call", max_tokens=9))
    assert cut.stop_reason == "max_tokens"
    assert all(isinstance(block.input, dict) and "arguments" not in block.input for block in cut.content)
    del (long := ask("text"))["max_tokens"]
    spare = LONGEST - client.messages.count_tokens(**long).input_tokens
    long["messages"][0]["content"] += "x" * (spare - 3)
    message = client.messages.create(**long, max_tokens=100)
    assert (message.usage.output_tokens, message.stop_reason) == (3, "model_context_window_exceeded")


def test_an_answer_may_be_begun(client: anthropic.Anthropic, stage: Stage, puppet: Puppet) -> None:
    """By a last turn of the assistant's: the prompt ends within it, and the answer has what follows."""
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": SCRIPTS["text"][:14]}]
    message = client.messages.create(**ask("text", messages=turns, max_tokens=50))
    prompt = puppet[1].decode(unpack_u32(stage[1].requests[0].tokens), skip_special_tokens=False)
    assert prompt.endswith("assistant\n" + SCRIPTS["text"][:14])
    assert told(message) == (SCRIPTS["text"][14:], "", [], "end_turn")


def test_no_tokens_may_be_wanted(client: anthropic.Anthropic, stage: Stage) -> None:
    """``max_tokens: 0`` has the prompt computed, and says nothing."""
    message = client.messages.create(**ask("text", max_tokens=0))
    assert (message.content, message.usage.output_tokens) == ([], 0)
    assert stage[1].requests[0].sampling.max_tokens == 1


def test_one_call_may_be_all_that_is_wanted(client: anthropic.Anthropic) -> None:
    """``disable_parallel_tool_use``: the message ends with its first call."""
    asked = ask("two", tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert told(client.messages.create(**asked)) == ("", "", ["Oslo"], "tool_use")


def test_where_nothing_is_to_be_called_calls_are_text(client: anthropic.Anthropic, stage: Stage) -> None:
    """``tool_choice: none`` keeps the prompt to the token."""
    client.messages.create(**ask("call"))
    message = client.messages.create(**ask("call", tool_choice={"type": "none"}))
    assert told(message) == (SCRIPTS["call"], "", [], "end_turn")
    assert stage[1].requests[0].tokens == stage[1].requests[1].tokens


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_may_be_left_out(client: anthropic.Anthropic, stream: bool) -> None:
    """``omitted``: a block with a signature and no text; ``disabled``: no block."""

    def blocks(**thinking: Any) -> list[Any]:
        asked = ask("muses", thinking=thinking)
        return list((streamed(client, asked) if stream else client.messages.create(**asked)).content)

    shown, omitted = blocks(type="adaptive")[0], blocks(type="enabled", budget_tokens=1024, display="omitted")[0]
    assert (shown.thinking, omitted.thinking, omitted.signature) == (REASONING["muses"], "", shown.signature)
    assert [block.type for block in blocks(type="disabled")] == ["text"]


def test_how_tokens_are_chosen_reaches_the_engine(client: anthropic.Anthropic, stage: Stage) -> None:
    client.messages.create(**ask("text", extra_body={"temperature": 0.25, "top_p": 0.5, "top_k": 3}))
    how = stage[1].requests[0].sampling
    assert (how.temperature, how.top_p, how.top_k) == (0.25, 0.5, 3)


@pytest.mark.parametrize("body", [{}, LONG], ids=["short", "long"])
def test_the_tokens_of_a_prompt_are_counted(client: anthropic.Anthropic, stage: Stage, body: dict[str, Any]) -> None:
    """As many as a message with it has; nothing is generated, and no length is too long to be counted."""
    asked = ask("text", system="Be brief.")
    del asked["max_tokens"]
    counted = client.messages.count_tokens(**asked, extra_body={"filler": body}).input_tokens
    assert stage[1].requests == []
    assert client.messages.create(**asked, max_tokens=1).usage.input_tokens == counted
    long: Any = [{"role": "user", "content": "x" * 20_000}]
    assert client.messages.count_tokens(model="tiny", messages=long).input_tokens > 20_000


def test_a_stream_that_waits_says_that_it_lives(puppet: Puppet) -> None:
    """With the API's own event, which its clients skip."""
    process = GatewayProcess(puppet[0], "--ping-s", "0.1").wait()
    try:
        engine = process.engine(**about_puppet(puppet[1]))
        engine.steps = 1
        with process.http.stream("POST", "/v1/messages", json=ask("text", max_tokens=5, stream=True)) as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if "ping" in line) == "event: ping"
            assert next(lines) == 'data: {"type":"ping"}'
            engine.steps = None
            assert "event: message_stop" in list(lines)
    finally:
        process.stop()


def test_a_stream_begins_before_the_first_token(stage: Stage, client: anthropic.Anthropic) -> None:
    """Its usage is right in the end, and what goes wrong meanwhile is its last event."""
    stage[1].steps, stage[1].cached_tokens = 0, 16
    try:
        with client.messages.stream(**ask("text")) as stream:
            assert next(iter(stream)).type == "message_start"
            assert stage[1].stalled()
            stage[1].steps = None
            usage = stream.get_final_message().usage
        assert usage.cache_read_input_tokens == 16
        assert usage.input_tokens == client.messages.create(**ask("text")).usage.input_tokens
        stage[1].steps = 0
        with client.messages.create(**ask("text"), stream=True) as events:
            assert next(events).type == "message_start"
            stage[1].fail_all("no_room", "gone")
            with pytest.raises(anthropic.APIStatusError, match="gone"):
                list(events)
    finally:
        stage[1].steps, stage[1].cached_tokens = None, 0


def test_a_stream_that_breaks_off_says_why(stage: Stage, client: anthropic.Anthropic) -> None:
    """With the event that the official client raises."""
    stage[1].steps = 1
    try:
        with client.messages.create(**ask("text"), stream=True) as stream:
            assert next(stream).type == "message_start"
            stage[1].fail_all("no_room", "gone")
            with pytest.raises(anthropic.APIStatusError) as broken:
                list(stream)
    finally:
        stage[1].steps = None
    error: Any = broken.value.body
    assert (error["type"], error["error"]["type"], error["error"]["message"]) == ("error", "overloaded_error", "gone")


def test_a_request_has_an_id(client: anthropic.Anthropic, stage: Stage) -> None:
    """Where this API's clients look for it, of errors too."""
    response: httpx.Response = stage[0].http.post("/v1/messages", json={"model": "tiny"})
    assert response.json()["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    assert client.messages.create(**ask("text"))._request_id
