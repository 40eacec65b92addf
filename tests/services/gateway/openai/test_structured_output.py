"""What an answer must be: what the engine is told of it, and what is refused, with a gateway of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from llguidance import LLMatcher

from quire_proto.gateway_link import MAX_GRAMMAR
from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.constraints.constraint import chat_constraint
from tests.services.gateway.openai.test_errors import JSON, error_of
from tests.services.gateway.tools.family_templates import HERMES, template
from tests.support.chat_templates import encoder
from tests.support.peer_engine import PeerEngine
from tests.support.puppet_chats import LONG, TOOLS, ask, told
from tests.support.puppet_stage import Stage, fresh
from tests.support.waits import wait_for

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def engine(stage: Stage) -> PeerEngine:
    return fresh(stage)


@pytest.fixture
def http(stage: Stage) -> httpx.Client:
    return stage[0].http


@pytest.fixture
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stage[0].url + "/v1", api_key="any", max_retries=0, timeout=20) as it:
        yield it


def plain(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "<|json|>", "max_tokens": 99} | more


def grammar_of(engine: PeerEngine) -> str:
    """The grammar of the last request, which is one."""
    text = engine.requests[-1].sampling.grammar.decode()
    failed, messages = LLMatcher.validate_grammar_with_warnings(text)
    assert not failed, messages
    return text


@pytest.mark.parametrize("body", [{}, LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"response_format": {"type": "json_object"}}, '"type": "object"'),
        ({"response_format": JSON_SCHEMA}, '"city"'),
        ({"structured_outputs": {"json": SCHEMA}}, '"city"'),
        ({"structured_outputs": {"regex": "[a-c]{3}"}}, "[a-c]{3}"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, '"yes" | "no"'),
        ({"structured_outputs": {"grammar": 'start: "qzx"'}}, "qzx"),
        ({"guided_json": json.dumps(SCHEMA), "guided_whitespace_pattern": "x?"}, '"whitespace_pattern": "x?"'),
        ({"guided_regex": "[a-c]{3}", "guided_decoding_backend": "outlines"}, "[a-c]{3}"),
        ({"guided_choice": ["yes", "no"]}, '"yes" | "no"'),
        ({"guided_grammar": 'root ::= "qzx"'}, "qzx"),
    ],
)
def test_the_engine_is_told_what_the_text_must_be(
    http: httpx.Client, engine: PeerEngine, asked: dict[str, Any], said: str, body: dict[str, Any]
) -> None:
    """In chats, behind reasoning if there is any, and in completions, where the text is nothing else."""
    assert http.post(CHAT, json=ask("json", None) | asked | body).status_code == 200
    chats = grammar_of(engine)
    assert said in chats
    assert "</think>" in chats
    assert http.post(PLAIN, json=plain(**asked, **body)).status_code == 200
    assert said in grammar_of(engine)
    assert "</think>" not in grammar_of(engine)


@pytest.mark.parametrize(
    "asked", [{}, {"response_format": {"type": "text"}}, {"guided_choice": []}, {"structured_outputs": {}}]
)
def test_an_answer_may_be_anything_where_nothing_is_asked(
    http: httpx.Client, engine: PeerEngine, asked: dict[str, Any]
) -> None:
    """Values that change nothing cost nothing."""
    assert http.post(CHAT, json=ask("text", None) | asked).status_code == 200
    assert http.post(CHAT, json=ask("text", tool_choice="none") | asked).status_code == 200
    assert http.post(PLAIN, json=plain(**asked)).status_code == 200
    assert [request.sampling.grammar for request in engine.requests] == [b""] * 3


def test_tools_that_must_be_called_are(client: openai.OpenAI, engine: PeerEngine) -> None:
    """One that the request names ends its answer with ``stop``, as OpenAI has it, and is called once."""
    choice = client.chat.completions.create(**ask("two"), tool_choice="required").choices[0]
    assert told(choice) == ("", "", ["Oslo", "Rome"], "tool_calls")
    required = grammar_of(engine)
    choice = client.chat.completions.create(**ask("two"), tool_choice=NAMED).choices[0]
    assert told(choice) == ("", "", ["Oslo"], "stop")
    assert grammar_of(engine) != required
    client.chat.completions.create(**ask("two"))
    assert grammar_of(engine) != required


def test_of_allowed_tools_alone_calls_are_made(http: httpx.Client, engine: PeerEngine) -> None:
    """The prompt has all of them, and the grammar those that may be called."""
    other = {"type": "function", "function": {"name": "get_time", "parameters": SCHEMA}}
    prompts = set()
    for mode in ("auto", "required"):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NAMED]}}
        for body in ({}, LONG):
            asked = ask("call", [*TOOLS, other], tool_choice=choice) | body
            answer = http.post(CHAT, json=asked).json()
            assert answer["choices"][0]["finish_reason"] == "tool_calls"
            assert "get_weather" in grammar_of(engine)
            assert "get_time" not in grammar_of(engine)
            prompts.add(engine.requests[-1].tokens)
    http.post(CHAT, json=ask("call", [*TOOLS, other]))
    assert prompts == {engine.requests[-1].tokens}


def test_reasoning_may_be_left_out(client: openai.OpenAI, engine: PeerEngine) -> None:
    """``include_reasoning: false``: it is read all the same, streamed or not."""
    without = {"include_reasoning": False}
    whole = client.chat.completions.create(**ask("thinks"), extra_body=without)
    assert told(whole.choices[0]) == ("", "", ["Kyiv"], "tool_calls")
    chunks = list(client.chat.completions.create(**ask("muses", None), extra_body=without, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It is Madrid, of course."
    assert not any(getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in chunks)


STRICT: list[Any] = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"not": {}}}}]


@pytest.mark.parametrize("body", [{}, LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": JSON_SCHEMA, "guided_regex": "a"}, "guided_regex"),
        ({"response_format": JSON_SCHEMA, "allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"choice": ["\ud800"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a" * MAX_GRAMMAR}}, "structured_outputs.regex"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": '{"items":' * 500 + "{}" + "}" * 500}, None),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_grammar": "root ::= ("}, "guided_grammar"),
        ({"guided_whitespace_pattern": 5}, "guided_whitespace_pattern"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_what_cannot_be_asked_is_answered_400(
    http: httpx.Client, engine: PeerEngine, asked: dict[str, Any], param: str | None, body: dict[str, Any]
) -> None:
    """In both APIs the parameter is named, and no engine hears of it."""
    for path, whole in ((CHAT, ask("json", None)), (PLAIN, plain())):
        answer = http.post(path, content=json.dumps(whole | asked | body), headers=JSON)
        assert error_of(answer, 400)["param"] == param
    assert engine.requests == []


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        (TOOLS, "any", "tool_choice"),
        (TOOLS, {"type": "function", "function": {"name": "g"}}, "tool_choice"),
        (None, "required", "tool_choice"),
        (STRICT, "auto", "tools"),
    ],
)
def test_what_cannot_be_chosen_is_answered_400(
    http: httpx.Client, engine: PeerEngine, tools: Any, choice: Any, param: str
) -> None:
    """A tool that is not there, a word that is none, a strict tool that no answer can be held to."""
    assert error_of(http.post(CHAT, json=ask("call", tools, tool_choice=choice)), 400)["param"] == param
    assert engine.requests == []


def test_a_help_that_cannot_be_had_is_left_out(
    http: httpx.Client, engine: PeerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools that may be called, and are not strict, stand in no request's way; where they must be, they do."""
    allowed = {"allowed_token_ids": list(range(100))}
    assert http.post(CHAT, json=ask("call", **allowed)).status_code == 200
    assert engine.requests[-1].sampling.grammar == b""
    assert http.post(CHAT, json=ask("call", **allowed, tool_choice="required")).status_code == 400

    monkeypatch.setattr("quire_services.gateway.openai.constraints.constraint.MAX_GRAMMAR", 100)
    model = encoder(tmp_path, template(HERMES))
    assert chat_constraint(ChatBody(**ask("call")), model, [1]) is None
    for binds in ({"tool_choice": "required"}, {"response_format": JSON_SCHEMA}):
        with pytest.raises(ApiError, match="more than 100 characters"):
            chat_constraint(ChatBody(**ask("call", **binds)), model, [1])


def test_a_grammar_for_many_prompts_is_short(http: httpx.Client, engine: PeerEngine) -> None:
    """It is sent with each of them."""
    asked = plain(prompt=["x"] * 1000, guided_regex="a" * 10_000, max_tokens=1)
    assert error_of(http.post(PLAIN, json=asked), 400)["param"] == "guided_regex"


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_is_answered_400(http: httpx.Client, engine: PeerEngine, stream: bool) -> None:
    """Also where it takes a while to find out, and where the answer would be streamed."""
    engine.steps = 0
    try:
        with openai.OpenAI(base_url=str(http.base_url) + "/v1", api_key="any", max_retries=0) as client:
            with ThreadPoolExecutor(1) as pool:
                asked = ask("json", None, response_format=JSON_SCHEMA, stream=stream)
                answer = pool.submit(client.chat.completions.create, **asked)
                wait_for(engine.busy, "the engine has it")
                time.sleep(0.4)  # longer than other streams wait for what fails early
                engine.fail_all("grammar", "the grammar cannot be used")
                with pytest.raises(openai.BadRequestError) as refused:
                    answer.result(20)
    finally:
        engine.steps = None
    assert (refused.value.param, refused.value.code) == ("response_format.json_schema.schema", "invalid_grammar")
    assert "cannot be used" in refused.value.message
