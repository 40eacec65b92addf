"""Tool calls and reasoning through the official client: a gateway of its own, and an engine that plays scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from quire_proto.wire.u32 import unpack_u32
from tests.support.gateway import GatewayProcess, Start, refused
from tests.support.peer_engine import PeerEngine
from tests.support.puppet import SCRIPTS, call
from tests.support.puppet_chats import LONG, REASONING, TOOLS, ask, expected, streamed, told
from tests.support.puppet_stage import Puppet, Stage, fresh
from tests.support.waits import wait_for


@pytest.fixture
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    fresh(stage)
    with openai.OpenAI(base_url=stage[0].url + "/v1", api_key="any", max_retries=0, timeout=20) as it:
        yield it


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("body", [{}, LONG], ids=["short", "long"])
def test_what_a_model_writes_becomes_what_the_api_says(
    client: openai.OpenAI, script: str, body: dict[str, Any]
) -> None:
    """Text, calls, several of them, text before them, reasoning, and what looks like a call; streamed or not."""
    whole = client.chat.completions.create(**ask(script), extra_body=body)
    assert told(whole.choices[0]) == expected(script)
    assert [told(choice) for choice in streamed(client, ask(script) | {"extra_body": body})] == [expected(script)]


@pytest.mark.parametrize("script", REASONING)
def test_reasoning_can_be_left_out(client: openai.OpenAI, script: str) -> None:
    """``include_reasoning: false``: the rest of the answer is what it was, streamed or not."""
    asked: Any = ask(script) | {"extra_body": {"include_reasoning": False}}
    content, reasoning, *rest = expected(script)
    assert reasoning
    bare = (content, "", *rest)
    assert told(client.chat.completions.create(**asked).choices[0]) == bare
    assert [told(choice) for choice in streamed(client, asked)] == [bare]


def test_a_message_of_calls_alone_has_no_content(client: openai.OpenAI) -> None:
    """Content is null then, as clients that look for it expect."""
    message = client.chat.completions.create(**ask("two")).choices[0].message
    assert message.content is None
    assert message.refusal is None


def test_calls_are_streamed_as_they_are_written(client: openai.OpenAI) -> None:
    """Each call begins with its index, id and name; its arguments follow in pieces; nothing else says anything."""
    chunks = [one.choices[0] for one in client.chat.completions.create(**ask("two"), stream=True)]
    pieces = [piece for chunk in chunks for piece in chunk.delta.tool_calls or []]
    begun = [piece for piece in pieces if piece.id]
    assert [(piece.index, piece.type, piece.function.name) for piece in begun] == [
        (0, "function", "get_weather"),
        (1, "function", "get_weather"),
    ]
    assert [piece.index for piece in pieces] == sorted(piece.index for piece in pieces)
    assert all(piece.function.name is None for piece in pieces if not piece.id)
    assert len(pieces) > 4
    assert not any(chunk.delta.content for chunk in chunks)
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["tool_calls"]


def test_one_call_may_be_all_that_is_wanted(stage: Stage, client: openai.OpenAI, puppet: Puppet) -> None:
    """``parallel_tool_calls: false``: the answer ends with its first call, and so does the work for it."""
    one, peer = ask("two") | {"parallel_tool_calls": False}, stage[1]
    peer.aborts.clear()
    first = SCRIPTS["two"].partition("</tool_call>")[0] + "</tool_call>\n"
    peer.steps = len(puppet[1].encode(first).ids) + 1  # the second call has begun and does not come to its end
    try:
        assert told(client.chat.completions.create(**one).choices[0]) == ("", "", ["Oslo"], "tool_calls")
        wait_for(lambda: not peer.busy(), "the engine is told")
    finally:
        peer.steps = None
    assert peer.aborts
    assert [told(choice) for choice in streamed(client, one)] == [("", "", ["Oslo"], "tool_calls")]
    assert told(client.chat.completions.create(**(one | ask("muses"))).choices[0]) == expected("muses")


def test_every_choice_has_calls_of_its_own(client: openai.OpenAI) -> None:
    """Of n choices, streamed or not, each is complete, with ids of its own."""
    whole = client.chat.completions.create(**ask("two"), n=2)
    assert [told(choice) for choice in whole.choices] == [expected("two")] * 2
    ids = {one.id for choice in whole.choices for one in choice.message.tool_calls}
    assert len(ids) == 4
    assert [told(choice) for choice in streamed(client, ask("two", n=2))] == [expected("two")] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_and_log_probabilities_are_those_of_the_whole_text(
    client: openai.OpenAI, puppet: Puppet, stream: bool
) -> None:
    """Each token is told once, whatever it has become."""
    asked = ask("thinks") | {"logprobs": True, "extra_body": {"return_token_ids": True}, "stream": stream}
    answer = client.chat.completions.create(**asked)
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    tokens = [token for choice in choices for token in getattr(choice, "token_ids", None) or []]
    names = [entry.token for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert puppet[1].decode(tokens, skip_special_tokens=False) == SCRIPTS["thinks"] + "<|im_end|>"
    assert len(names) == len(tokens)


def test_a_stop_string_cuts_what_the_model_writes(client: openai.OpenAI) -> None:
    """Before it is a call or not: the call that stands is told, what comes behind it is not."""
    choice = client.chat.completions.create(**ask("two"), stop="</tool_call>").choices[0]
    assert told(choice) == ("", "", ["Oslo"], "tool_calls")
    choice = client.chat.completions.create(**ask("says"), stop=["look", "</tool_call>"]).choices[0]
    assert told(choice) == ("Let me ", "", [], "stop")
    choice = client.chat.completions.create(**ask("two"), stop="slo").choices[0]
    assert choice.message.tool_calls[0].function.arguments == '{"city": "O'


def test_an_answer_that_is_cut_off_in_a_call_says_so(client: openai.OpenAI) -> None:
    """``length`` goes before ``tool_calls``: the arguments are not whole."""
    choice = client.chat.completions.create(**ask("call"), max_tokens=9).choices[0]
    assert choice.finish_reason == "length"
    assert SCRIPTS["call"].count(choice.message.tool_calls[0].function.arguments) == 1


@pytest.mark.parametrize("body", [{}, LONG], ids=["short", "long"])
def test_where_nothing_is_to_be_called_calls_are_text_and_the_prompt_stays(
    stage: Stage, client: openai.OpenAI, body: dict[str, Any]
) -> None:
    """``tool_choice: none`` leaves the prompt as it is, to the token, and reads reasoning all the same."""
    client.chat.completions.create(**ask("call"), extra_body=body)
    none = client.chat.completions.create(**ask("call"), tool_choice="none", extra_body=body).choices[0]
    assert told(none) == (SCRIPTS["call"], "", [], "stop")
    auto, without = (list(unpack_u32(request.tokens)) for request in stage[1].requests)
    assert auto == without
    thinks = client.chat.completions.create(**ask("thinks"), tool_choice="none", extra_body=body).choices[0]
    assert told(thinks) == (call("Kyiv"), REASONING["thinks"], [], "stop")


def test_without_tools_calls_are_text(client: openai.OpenAI) -> None:
    """And reasoning is no content."""
    assert told(client.chat.completions.create(**ask("call", None)).choices[0]) == (SCRIPTS["call"], "", [], "stop")
    assert told(client.chat.completions.create(**ask("muses", None)).choices[0]) == expected("muses")


def test_a_conversation_with_calls_goes_on(client: openai.OpenAI) -> None:
    """What was called and answered is part of the next prompt."""
    asked = ask("call")
    message = client.chat.completions.create(**asked).choices[0].message
    asked["messages"] += [
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "21"},
    ]
    assert told(client.chat.completions.create(**asked).choices[0]) == expected("final")


def test_special_tokens_that_are_shown_spoil_no_call(client: openai.OpenAI) -> None:
    """The end token is text then, behind the call."""
    shown = {"skip_special_tokens": False, "ignore_eos": True}
    choice = client.chat.completions.create(**ask("call"), max_tokens=12, extra_body=shown).choices[0]
    assert told(choice) == ("<|im_end|>", "", ["Berlin"], "length")


def test_completions_are_text_whatever_they_say(client: openai.OpenAI) -> None:
    """Nothing is looked for in an answer of the other API."""
    assert (
        client.completions.create(model="tiny", prompt="<|thinks|>", max_tokens=99).choices[0].text == SCRIPTS["thinks"]
    )


def test_tools_of_a_model_whose_calls_would_not_be_found_are_refused(
    gateway: GatewayProcess, engine: PeerEngine
) -> None:
    """Unless nothing is to be called; an operator may know better."""
    messages = [{"role": "user", "content": "fox"}]
    body = {"model": "tiny", "messages": messages, "tools": TOOLS, "max_tokens": 1}
    for more in ({}, LONG, {"tool_choice": "required"}):
        answer = gateway.http.post("/v1/chat/completions", json=body | more)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, "tools", "no_tool_parser")
        assert "--tool-parser" in error["message"]
    assert gateway.http.post("/v1/chat/completions", json=body | {"tool_choice": "none"}).status_code == 200
    assert [line["name"] for line in gateway.lines() if line["event"] == "tool_parser"] == ["none"]


def test_the_parser_may_be_named(start: Start, model: Path, puppet: Puppet) -> None:
    """By its own name or another's; a name that is none ends the start."""
    named = start("--tool-parser", "qwen")
    peer = named.engine()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "fox"}], "tools": TOOLS, "max_tokens": 1}
    assert named.http.post("/v1/chat/completions", json=body).status_code == 200
    peer.close()
    (line,) = [line for line in named.lines() if line["event"] == "tool_parser"]
    assert (line["name"], line["by"]) == ("hermes", "setting")
    assert "'parrot' is none of" in refused(model, "--tool-parser", "parrot")
    assert "response_template" in refused(model, "--tool-parser", "response_template")
