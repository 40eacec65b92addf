"""Prompts as tokens and as text: what is told of them is what a request with them would have."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from quire_proto.wire.u32 import unpack_u32
from tests.support.gateway import TEMPLATE, GatewayProcess, Start
from tests.support.peer_engine import PeerEngine

MESSAGES: list[Any] = [{"role": "system", "content": "the lazy dog"}, {"role": "user", "content": "quick 🙂"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
SHORT: dict[str, Any] = {}
LONG = {"metadata": {"filler": "x" * 20_000}}  # read by a process of its own
PATHS = ("/tokenize", "/detokenize", "/v1/chat/completions/render", "/v1/completions/render", "/v1/messages/render")


def told(gateway: GatewayProcess, path: str, **body: Any) -> Any:
    """The answer to a request."""
    answer = gateway.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def wrong(answer: httpx.Response, status: int = 400) -> Any:
    """The error of a request, in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("more", [SHORT, LONG], ids=["short", "long"])
def test_a_text_becomes_its_tokens_and_tokens_their_text(
    gateway: GatewayProcess, engine: PeerEngine, tokenizer: Tokenizer, more: dict[str, Any]
) -> None:
    """As vLLM tells them; the tokens by their names if that is wanted."""
    text = "<bos>quick foxes 🙂"
    ids = tokenizer.encode(text).ids
    answer = told(gateway, "/tokenize", prompt=text, return_token_strs=True, **more)
    names = [tokenizer.id_to_token(token) for token in ids]
    assert answer == {"count": len(ids), "max_model_len": 512, "tokens": ids, "token_strs": names}
    assert told(gateway, "/tokenize", prompt=text, model="tiny")["token_strs"] is None
    assert told(gateway, "/detokenize", tokens=ids, **more) == {"prompt": text}
    assert told(gateway, "/tokenize", prompt="")["tokens"] == []
    assert told(gateway, "/detokenize", tokens=[]) == {"prompt": ""}


@pytest.mark.parametrize("more", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("tools", [[], TOOLS], ids=["plain", "tools"])
def test_messages_become_the_tokens_that_their_chat_has(
    gateway: GatewayProcess, engine: PeerEngine, tokenizer: Tokenizer, tools: list[Any], more: dict[str, Any]
) -> None:
    """Rendered, counted or asked to be answered, by either API; nothing is generated but where it is."""
    chat = {"messages": MESSAGES, "tools": tools, "tool_choice": "none"} | more
    found = told(gateway, "/tokenize", **chat)
    rendered = told(gateway, "/v1/chat/completions/render", model="tiny", **chat)
    assert engine.requests == []
    assert told(gateway, "/v1/chat/completions", model="tiny", max_tokens=1, **chat)["usage"]["total_tokens"] > 1
    prompt = list(unpack_u32(engine.requests[0].tokens))
    assert found["tokens"] == rendered["token_ids"] == prompt
    assert (found["count"], rendered["model"]) == (len(prompt), "tiny")
    assert rendered["text"] == tokenizer.decode(prompt, skip_special_tokens=False)
    turns = {"system": MESSAGES[0]["content"], "messages": MESSAGES[1:], "max_tokens": 1, "metadata": {}}
    if not tools:
        assert told(gateway, "/v1/messages/render", model="tiny", **turns)["token_ids"] == prompt


def test_how_a_prompt_ends_is_said_as_in_a_chat(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Where the answer begins, at the last message's end, or within it; with the tokenizer's own tokens or without."""
    usual = told(gateway, "/tokenize", messages=MESSAGES)["tokens"]
    bare = told(gateway, "/tokenize", messages=MESSAGES, add_generation_prompt=False)["tokens"]
    assert bare == usual[:-1]
    goes_on = [*MESSAGES, {"role": "assistant", "content": "the fox"}]
    within = told(gateway, "/tokenize", messages=goes_on, continue_final_message=True, add_generation_prompt=False)
    assert within["tokens"][: len(usual)] == usual


def test_each_prompt_of_a_completion_is_rendered(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """In a list, as vLLM does."""
    answer = told(gateway, "/v1/completions/render", model="tiny", prompt=["fox", "dog"])
    assert [one["text"] for one in answer] == ["fox", "dog"]
    assert [one["token_ids"] for one in answer] == [
        told(gateway, "/tokenize", prompt=word)["tokens"] for word in ("fox", "dog")
    ]


def test_no_length_is_too_long_to_be_counted(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """But a prompt that no request could have is not rendered as one's."""
    long = [{"role": "user", "content": "x" * 2000}]
    assert told(gateway, "/tokenize", messages=long)["count"] > 2000 > 512
    assert told(gateway, "/tokenize", prompt="x" * 100_000)["count"] == 100_000
    error = wrong(gateway.http.post("/v1/chat/completions/render", json={"model": "tiny", "messages": long}))
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": ["x"]}, "prompt"),
        ("/tokenize", {"prompt": "\ud800"}, "Unicode"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ("/tokenize", {"messages": MESSAGES, "chat_template_kwargs": {"tokenize": True}}, "tokenize"),
        ("/tokenize", {"messages": [{"role": "user", "content": ["x"] * 66_000}]}, "66000"),
        ("/tokenize", {"prompt": "x", "add_special_tokens": 1}, "add_special_tokens"),
        ("/tokenize", [], "body"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": [5, 320]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
        ("/detokenize", {"tokens": [5.0]}, "tokens[0]"),
        ("/detokenize", {"tokens": [5] * 1_100_000}, "1048576"),
        ("/tokenize", {"prompt": "x" * 1_100_000}, "1048576"),
        ("/v1/completions/render", {"model": "tiny", "prompt": ""}, "prompt"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_wrong_request_is_answered_400(
    gateway: GatewayProcess, engine: PeerEngine, path: str, body: Any, names: str
) -> None:
    """With the field that is wrong, and whatever its size."""
    answer = gateway.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert names in wrong(answer)["message"]


@pytest.mark.parametrize("path", PATHS)
def test_another_model_is_unknown(gateway: GatewayProcess, engine: PeerEngine, path: str) -> None:
    of_chat = {"messages": MESSAGES[1:], "max_tokens": 1}
    asked = of_chat if "chat" in path or "messages" in path else {"prompt": "x", "tokens": [5]}
    answer = gateway.http.post(path, json={"model": "gpt-4", **asked})
    assert (answer.status_code, "gpt-4" in answer.json()["error"]["message"]) == (404, True)


def test_tokens_come_with_a_key_only(start: Start, tmp_path: Any) -> None:
    """As everything but the health of a server does."""
    config = tmp_path / "quire.toml"
    config.write_text('[[tenants]]\nname = "acme"\nkeys = ["sk-acme"]\n')
    process = start(config=config)
    process.engine()
    assert process.http.post("/tokenize", json={"prompt": "x"}).status_code == 401
    headers = {"authorization": "Bearer sk-acme"}
    assert process.http.post("/tokenize", json={"prompt": "x"}, headers=headers).status_code == 200


def test_a_template_of_the_request_is_rendered_apart(start: Start) -> None:
    """Where such are trusted, one that never ends is given up, and others are served meanwhile."""
    process = start("--trust-request-chat-template")
    process.engine()
    spells = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    found = told(process, "/tokenize", messages=MESSAGES, chat_template=spells)["tokens"]
    assert told(process, "/detokenize", tokens=found) == {"prompt": "[the lazy dog][quick 🙂]"}
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    asked = {"messages": MESSAGES, "chat_template": endless}
    with ThreadPoolExecutor() as beside:
        slow = beside.submit(process.http.post, "/tokenize", json=asked)
        while not slow.done():
            began = time.monotonic()
            assert told(process, "/tokenize", prompt="fox")["count"] > 0
            assert time.monotonic() - began < 2
    assert "chat_template" in wrong(slow.result())["message"]


def test_a_client_may_render_prompts_itself(gateway: GatewayProcess, tokenizer: Tokenizer, engine: PeerEngine) -> None:
    """Special tokens by their roles, and the template; what they spell is tokenized as them."""
    info = gateway.http.get("/tokenizer_info").json()
    assert info == {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": TEMPLATE}
    ids = told(gateway, "/tokenize", prompt=info["eos_token"], add_special_tokens=False)["tokens"]
    assert ids == [tokenizer.token_to_id("<eos>")]
