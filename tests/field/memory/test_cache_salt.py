"""Isolation that a client asks for with ``cache_salt``, on a real stack of two engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.models.tiny import make_model
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

SYSTEM = " ".join(f"w{i}" for i in range(100, 180))
CONFIG = """
[[tenants]]
name = "ann"
keys = ["sk-ann"]
[[published]]
file = "system.txt"
domain = "public"
"""
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp("salt")
    (tmp / "system.txt").write_text(SYSTEM)
    model = make_model(tmp / "model", vocab=256)
    with running_stack(tmp, model, engines=2, config=CONFIG.replace("system.txt", str(tmp / "system.txt"))) as started:
        wait_for(lambda: [p.state for p in started.stats().publications] == ["ready"], "the prompt is computed", 60)
        yield started


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.url + "/v1", api_key="sk-ann", max_retries=0) as made:
        yield made


def prompt(seed: int, length: int = 64) -> list[int]:
    """Tokens that no other seed begins with."""
    return [(seed * 37 + i * (2 * seed + 1)) % 200 + 40 for i in range(length)]


def cached(client: openai.OpenAI, tokens: list[int], salt: str | None, **options: Any) -> int:
    """Prompt tokens of a plain completion that were found computed."""
    extra = {"ignore_eos": True} | ({"cache_salt": salt} if salt else {})
    answer = client.completions.create(model="m", prompt=tokens, max_tokens=2, extra_body=extra, **options)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    found = answer.usage.prompt_tokens_details.cached_tokens
    assert found is not None
    return found


@pytest.mark.source("vllm-project/vllm#16016; vllm-project/vllm#17045; BerriAI/litellm#27925")
def test_two_salts_share_nothing(client: openai.OpenAI) -> None:
    """A prompt is a hit under its own salt, on either engine, and under no other, nor without one."""
    tokens = prompt(1)
    assert cached(client, tokens, "pepper") == 0
    assert [cached(client, tokens, "pepper") for _ in range(2)] == [63, 63]
    assert cached(client, tokens, "paprika") == 0
    assert cached(client, tokens, None) == 0
    assert cached(client, tokens, None) == 63


@pytest.mark.source("vllm-project/vllm#39082")
def test_what_is_generated_under_a_salt_is_found_under_it_only(client: openai.OpenAI) -> None:
    """A conversation's next turn hits the answer before it, branches included, and another salt does not."""
    tokens = prompt(2, 40)
    extra = {"cache_salt": "one", "ignore_eos": True, "return_token_ids": True}
    answer = client.completions.create(model="m", prompt=tokens, max_tokens=40, n=2, extra_body=extra)
    longer = [tokens + list(choice.model_extra["token_ids"]) for choice in answer.choices]  # type: ignore[index]
    for turn in longer:
        assert cached(client, turn, "one") >= 64
    assert cached(client, longer[0], "two") == 0


@pytest.mark.source("vllm-project/vllm#16016")
def test_a_salted_chat_is_kept_from_publications(client: openai.OpenAI) -> None:
    """A published prompt is shared on purpose; a request that asks for isolation shares not even that."""

    def chat(user: str, **extra: Any) -> int:
        messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
        answer = client.chat.completions.create(model="m", messages=messages, max_tokens=1, extra_body=extra)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    assert chat("w1 w2") >= 80
    assert chat("w1 w2", cache_salt="alone") == 0
    assert chat("w1 w2", cache_salt="alone") >= 64


@pytest.mark.source("vllm-project/vllm#16016")
@pytest.mark.parametrize("salt", ["", 5, ["a"], "x" * 1025, "\ud800"], ids=["empty", "int", "list", "long", "half"])
def test_what_is_no_salt_is_refused(stack: Stack, salt: object) -> None:
    """A client that asks for isolation in a way that cannot be meant is told so, not served without."""
    body = '{"model": "m", "prompt": "w1", "max_tokens": 1, "cache_salt": %s}'
    headers = {"content-type": "application/json", "authorization": "Bearer sk-ann"}
    answer = stack.http.post("/v1/completions", content=body % json.dumps(salt), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "cache_salt"
