"""Responses through the official client: text, calls and reasoning, whole and streamed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from quire_services.gateway.openai.response_api.response_body import ResponseBody
from quire_services.gateway.openai.response_api.response_request import response_request
from quire_services.gateway.openai.sampling_defaults import SamplingDefaults
from tests.support.puppet import SCRIPTS
from tests.support.puppet_chats import TOOLS, ask
from tests.support.puppet_chats import expected as expected_of_chat
from tests.support.puppet_responses import LONG_BODY, TOOL, events_of, request_of, said
from tests.support.puppet_stage import Stage
from tests.support.waits import wait_for


def expected(script: str) -> tuple[Any, ...]:
    """What a response with a script says."""
    return expected_of_chat(script)[:3]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("body", [{}, LONG_BODY], ids=["short", "long"])
def test_what_a_model_writes_becomes_items(client: openai.OpenAI, script: str, body: dict[str, Any]) -> None:
    """Text, calls, several of them, text before them, reasoning, and what looks like a call; streamed or not, and the
    stream ends with what it has said."""
    whole = client.responses.create(**request_of(script, **body))
    assert said(whole) == expected(script)
    assert (whole.status, whole.error, whole.incomplete_details) == ("completed", None, None)
    events = events_of(client, request_of(script, **body))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert last.type == "response.completed"
    assert said(last.response) == expected(script)
    assert [event.item for event in events if event.type == "response.output_item.done"] == last.response.output
    assert last.response.usage == whole.usage


def test_a_stream_begins_before_the_first_token(stage: Stage, client: openai.OpenAI) -> None:
    """And what goes wrong before it is told by the stream's last event."""
    stage[1].steps = 0
    try:
        with client.responses.create(**request_of("call"), stream=True) as events:
            assert [next(events).type for _ in range(2)] == ["response.created", "response.in_progress"]
            assert stage[1].stalled()
            stage[1].fail_all("no_room", "gone")
            (last,) = events
    finally:
        stage[1].steps = None
    assert (last.type, last.sequence_number, last.response.status) == ("response.failed", 2, "failed")
    assert last.response.error.message == "gone"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_client_puts_a_stream_together(client: openai.OpenAI, script: str) -> None:
    """``responses.stream`` follows the events and ends with the same response."""
    with client.responses.stream(**request_of(script)) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert said(final) == expected(script)
    assert "".join(deltas) == expected(script)[0]


def test_the_client_without_threads_gets_the_same(stage: Stage) -> None:
    """Whole and streamed."""

    async def both() -> None:
        async with openai.AsyncOpenAI(base_url=stage[0].url + "/v1", api_key="sk-acme", max_retries=0) as client:
            assert said(await client.responses.create(**request_of("thinks"))) == expected("thinks")
            async with client.responses.stream(**request_of("says")) as stream:
                async for _ in stream:
                    pass
                assert said(await stream.get_final_response()) == expected("says")

    asyncio.run(both())


def test_the_prompt_is_that_of_the_same_chat(stage: Stage, client: openai.OpenAI) -> None:
    """To the token: what one API has computed is a hit for the other."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "play text"}]
    client.chat.completions.create(**ask("text", TOOLS) | {"messages": messages})
    tool = TOOL | {"strict": None}
    client.responses.create(**request_of("text", instructions="Be brief.", tools=[tool]))
    said_in_parts = {"role": "user", "content": [{"type": "input_text", "text": "play text"}]}
    parts = [{"role": "developer", "content": "Be brief."}, said_in_parts]
    client.responses.create(**request_of("text", tools=[tool]) | {"input": parts})
    chat, flat, items = (bytes(request.tokens) for request in stage[1].requests)
    assert chat == flat == items


def test_one_call_may_be_all_that_is_wanted(client: openai.OpenAI) -> None:
    """``parallel_tool_calls: false`` ends the response with its first call."""
    one = client.responses.create(**request_of("two", parallel_tool_calls=False))
    assert said(one)[2] == ["Oslo"]
    assert one.parallel_tool_calls is False


def test_where_nothing_is_to_be_called_calls_are_text(client: openai.OpenAI) -> None:
    """``tool_choice: none``."""
    assert said(client.responses.create(**request_of("call", tool_choice="none"))) == (SCRIPTS["call"], "", [])


@pytest.mark.parametrize("script", ["text", "call", "muses"])
def test_a_response_that_is_cut_is_incomplete(client: openai.OpenAI, script: str) -> None:
    """So is its last item, and the stream says the same."""
    asked = request_of(script, max_output_tokens=4)
    whole = client.responses.create(**asked)
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert whole.output[-1].status == "incomplete"
    assert whole.max_output_tokens == 4
    assert whole.usage.output_tokens == 4
    last = events_of(client, asked)[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.incomplete_details == whole.incomplete_details
    assert last.response.output[-1].status == "incomplete"


def test_what_was_used_is_counted(stage: Stage, client: openai.OpenAI) -> None:
    """Tokens of the input, of those that came from the cache, of the output and of its reasoning."""
    stage[1].cached_tokens = 8
    try:
        usage = client.responses.create(**request_of("muses")).usage
    finally:
        stage[1].cached_tokens = 0
    assert usage.input_tokens == len(stage[1].requests[0].tokens) // 4
    assert usage.input_tokens_details.cached_tokens == 8
    assert usage.input_tokens_details.cache_write_tokens == usage.input_tokens - 8
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens
    assert client.responses.create(**request_of("text")).usage.output_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_come_with_the_text_that_they_are_of(client: openai.OpenAI, stream: bool) -> None:
    """Only with the text, not with reasoning or the end; in a stream with each piece, and whole in the end."""
    asked = request_of("muses", include=["message.output_text.logprobs"], top_logprobs=2)
    if stream:
        events = events_of(client, asked)
        response = events[-1].response
        pieces = [entry for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    else:
        response = client.responses.create(**asked)
        pieces = response.output[1].content[0].logprobs
    entries = response.output[1].content[0].logprobs
    assert [entry.token for entry in pieces] == [entry.token for entry in entries]
    assert "".join(entry.token for entry in entries).endswith(response.output_text)
    assert all(len(entry.top_logprobs) == 2 for entry in entries)
    assert client.responses.create(**request_of("muses")).output[1].content[0].logprobs == []


def test_a_response_repeats_its_request(client: openai.OpenAI) -> None:
    """As clients that log responses expect."""
    asked = request_of("text", instructions="Be brief.", temperature=0.5, top_p=0.9, metadata={"a": "b"}, user="u",
                       safety_identifier="s", prompt_cache_key="k", truncation="auto")  # fmt: skip
    found = client.responses.create(**asked).model_dump()
    same = ("instructions", "temperature", "top_p", "metadata", "user", "safety_identifier", "prompt_cache_key",
            "truncation", "model")  # fmt: skip
    assert {name: found[name] for name in same} == {name: asked[name] for name in same}
    assert found["tools"][0]["name"] == "get_weather"
    assert (found["tool_choice"], found["text"]["format"]) == ("auto", {"type": "text"})
    assert (found["object"], found["background"], found["previous_response_id"]) == ("response", False, None)


def test_what_is_long_is_not_repeated() -> None:
    """Each open request holds it, and a stream says it three times."""
    body = ResponseBody(model="m", input="hi", instructions="x" * 300_000, tools=[TOOL], metadata={"a": "b"})
    draft = response_request(body, lambda *_: b"", SamplingDefaults()).draft
    assert (draft.repeated["instructions"], draft.repeated["tools"]) == (None, [])
    assert draft.repeated["metadata"] == {"a": "b"}


def test_a_response_that_fails_under_way_says_so(stage: Stage, client: openai.OpenAI) -> None:
    """After the response has begun: an event, with what there is of it and why."""
    engine = stage[1]
    engine.steps = 3
    try:
        with client.responses.create(**request_of("text"), stream=True) as stream:
            events = [next(stream) for _ in range(5)]
            wait_for(lambda: engine.busy(), "the request")
            engine.fail_all("internal", "no luck")
            events += list(stream)
    finally:
        engine.steps = None
    last = events[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert (last.response.error.code, last.response.error.message) == ("server_error", "no luck")
    assert last.response.output[0].status in ("completed", "incomplete")


def test_what_fails_at_once_has_a_status(stage: Stage, client: openai.OpenAI) -> None:
    """Before anything was sent."""
    engine = stage[1]
    engine.steps = 0
    try:
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(client.responses.create, **request_of("text"))
            wait_for(lambda: engine.busy(), "the request")
            engine.fail_all("no_room", "full")
            with pytest.raises(openai.InternalServerError, match="full") as failed:
                waiting.result(20)
    finally:
        engine.steps = None
    assert failed.value.status_code == 503
