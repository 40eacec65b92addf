"""Tool calls of a model that makes them perfectly: the official client, a gateway, engines and a kvstore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.puppet import SCRIPTS, make_puppet
from tests.support.puppet_chats import LONG, ask, expected, streamed, told
from tests.support.puppet_responses import events_of, request_of, said
from tests.support.stack import Stack, running_stack

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp("tool-calls")
    with running_stack(tmp, make_puppet(tmp / "model"), engines=2) as it:
        yield it


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.url + "/v1", api_key="any", max_retries=0) as made:
        yield made


def test_every_script_is_told_as_it_is(client: openai.OpenAI) -> None:
    """Streamed and not, of short bodies and long ones, two choices of each."""
    for script in SCRIPTS.keys() - {"broken"}:  # what begins like a call is held to being one
        for body in ({}, LONG):
            asked = ask(script, model="m", n=2) | {"extra_body": body}
            whole = client.chat.completions.create(**asked)
            assert [told(choice) for choice in whole.choices] == [expected(script)] * 2
            assert [told(choice) for choice in streamed(client, asked)] == [expected(script)] * 2


def test_a_loop_of_an_agent_comes_to_its_end(client: openai.OpenAI) -> None:
    """A call, its answer, the last word; what was said before comes from the cache."""
    asked = ask("call", model="m")
    message = client.chat.completions.create(**asked).choices[0].message
    assert message.tool_calls is not None
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "21"}
    asked["messages"] += [message.model_dump(exclude_none=True), answer]
    last = client.chat.completions.create(**asked)
    assert told(last.choices[0]) == expected("final")
    assert last.usage is not None
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens


def test_a_choice_that_calls_nothing_shares_the_prompt(client: openai.OpenAI) -> None:
    """Whatever the choice, the tools' tokens are in the cache."""
    asked = ask("text", model="m")
    asked["messages"][0]["content"] += " " + "again and " * 20
    first = client.chat.completions.create(**asked, max_tokens=1)
    second = client.chat.completions.create(**asked, tool_choice="none", max_tokens=1)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 16


def test_a_response_that_goes_on_finds_all_before_it_in_the_cache(client: openai.OpenAI) -> None:
    """By its name, in any engine, and with the tokens that the same chat has."""
    asked = request_of("thinks", model="m")
    first = client.responses.create(**asked)
    assert said(first) == expected("thinks")[:3]
    call = first.output[-1]
    assert call.type == "function_call"
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "21"}
    last = client.responses.create(**asked | {"previous_response_id": first.id, "input": [answer]})
    assert said(last) == expected("final")[:3]
    assert first.usage is not None
    assert last.usage is not None
    assert last.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - 16
    events = events_of(client, asked)
    assert said(events[-1].response) == expected("thinks")[:3]
