"""A context length that is published and does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from bench.models.tiny import make_model
from quire_engine.checkpoint.demands.positions import served_length
from quire_engine.checkpoint.refusal import ModelRefused
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

BLOCKS, SIZE, PINNED = 24, 16, 3
POOL = (BLOCKS - PINNED - 1) * SIZE  # less one block to copy to
SYSTEM = " ".join(f"w{i}" for i in range(100, 140))
CONFIG = '[[published]]\nfile = "{file}"\ndomain = "public"\n'


def tokens(count: int) -> list[int]:
    """A prompt that begins with no publication."""
    return [40 + i * 7 % 150 for i in range(count)]


def ask(stack: Stack, prompt: list[int], max_tokens: int = 1) -> httpx.Response:
    """A completion; -1: as many tokens as there is room for."""
    body = {"model": "m", "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
    return httpx.post(f"{stack.url}/v1/completions", json=body, timeout=60)


def published(stack: Stack) -> int:
    """What the list of models says."""
    return int(httpx.get(f"{stack.url}/v1/models").json()["data"][0]["max_model_len"])


def holds_exactly(stack: Stack, limit: int) -> None:
    """So many tokens are served, prompt and answer together, and not one more."""
    assert ask(stack, tokens(limit - 1)).json()["usage"]["total_tokens"] == limit
    assert ask(stack, tokens(limit - 9), -1).json()["usage"]["total_tokens"] == limit
    for refused in (ask(stack, tokens(limit)), ask(stack, tokens(limit + 40)), ask(stack, tokens(limit * 2))):
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (400, "context_length_exceeded"), error
        assert str(limit) in error["message"], error


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A pool far smaller than the model's context, and a publication that pins a part of it."""
    tmp: Path = tmp_path_factory.mktemp("length")
    (tmp / "system.txt").write_text(SYSTEM)
    config = CONFIG.format(file=tmp / "system.txt")
    model = make_model(tmp / "model", vocab=256, max_len=2048)
    with running_stack(tmp, model, engines=1, blocks=BLOCKS, config=config) as started:
        wait_for(lambda: [p.state for p in started.stats().publications] == ["ready"], "the prompt is computed", 60)
        yield started


@pytest.mark.process
@pytest.mark.source("vllm-project/vllm#2163")
@pytest.mark.source("vllm-project/vllm#2418")
def test_what_the_pool_admits_is_published_and_holds(stack: Stack) -> None:
    """Of the model's 2,048 tokens a pool of 24 blocks has room for 320 beside the publication."""
    wait_for(lambda: published(stack) == POOL, f"{POOL} tokens are published, not {published(stack)}", 10)
    holds_exactly(stack, POOL)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.source("vllm-project/vllm#14102")
def test_the_setting_is_published_and_holds(tmp_path: Path) -> None:
    """``--max-model-len`` below the model's context and the pool's is what everyone is told."""
    model = make_model(tmp_path / "model", vocab=256, max_len=2048)
    with running_stack(tmp_path, model, "--max-model-len=100", engines=1, blocks=64) as started:
        assert published(started) == 100
        holds_exactly(started, 100)


@pytest.mark.source("vllm-project/vllm#14102")
def test_a_setting_beyond_the_model_is_refused() -> None:
    """With both numbers; 0 is what the model is made for."""
    config = SimpleNamespace(max_position_embeddings=2048)
    assert served_length(config, 0) == 2048
    assert served_length(config, 100) == 100
    with pytest.raises(ModelRefused, match="--max-model-len 4096: the model is made for 2048 tokens"):
        served_length(config, 4096)
