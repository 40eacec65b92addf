"""The stack gives the tokens transformers gives: six model families, HTTP, two engines, chunks, sharing, preemption."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.models.tiny import FIRST_WORD, make_model
from tests.support.reference import Reference
from tests.support.stack import Stack, running_stack, step_log
from tests.support.waits import wait_for

NEW = 10
# Head sizes 48 to 128; Mistral's window is shorter than most prompts; Gemma-2 has soft-cap and alternating windows.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"heads": 4, "kv_heads": 2, "head_dim": 64},
    "qwen2": {"hidden": 192, "heads": 4, "kv_heads": 1},
    "qwen3": {"heads": 4, "kv_heads": 4, "head_dim": 80},
    "mistral": {"heads": 4, "kv_heads": 2, "head_dim": 128, "window": 64},
    "gemma2": {"heads": 4, "kv_heads": 2, "head_dim": 96, "window": 128},
    "phi3": {"hidden": 384, "heads": 4, "kv_heads": 2},
}
# What sets these apart (biases, norms of queries and keys, packed projections) is transformers' own code; `make test`
# runs the one that asks most of our attention, `make check` three, `make soak` all. More run in one process
# (`tests/engine/model/test_families.py`).
RARER = {"llama": pytest.mark.slow, "phi3": pytest.mark.slow} | dict.fromkeys(
    ("mistral", "qwen2", "qwen3"), pytest.mark.soak
)
MARKED = [pytest.param(name, marks=RARER[name]) if name in RARER else name for name in FAMILIES]


def expected(reference: Reference, vocab: int, seed: int) -> dict[tuple[int, ...], list[int]]:
    """24 prompts of 1 to 900 tokens and their tokens; some share a prefix of 300, some end on a block edge."""
    rng = random.Random(seed)

    def words(n: int) -> list[int]:
        return [rng.randrange(FIRST_WORD, vocab) for _ in range(n)]

    shared = words(300)
    out: dict[tuple[int, ...], list[int]] = {}
    for n in (1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 129, 200, 257, 400, 640, 900):
        out |= reference.decisive(partial(words, n), NEW, prompts=1)
    for n in (1, 4, 16, 20, 53, 212, 340, 600):
        out |= reference.decisive(lambda n=n: shared + words(n), NEW, prompts=1)  # type: ignore[misc]
    return out


def ask_all(stack: Stack, asked: list[list[int]]) -> list[list[int]]:
    """All prompts at concurrency 12; the generated token ids."""
    with ThreadPoolExecutor(12) as pool:
        answers = pool.map(lambda p: stack.complete(p, max_tokens=NEW, ignore_eos=True), asked)
        return [answer["choices"][0]["token_ids"] for answer in answers]


@pytest.mark.process
@pytest.mark.parametrize("family", MARKED)
def test_tokens_equal_generate(family: str, tmp_path: Path) -> None:
    """24 prompts at concurrency 12 over two engines, with chunked prefill and sharing, equal eager ``generate``."""
    model = make_model(tmp_path / "model", family, vocab=384, **FAMILIES[family])
    right = expected(Reference(model), 384, seed=len(family))
    asked = [list(prompt) for prompt in right]
    assert len(asked) == 24
    assert len({t for tokens in right.values() for t in tokens}) > 60, "outputs are too alike to prove anything"
    with running_stack(tmp_path, model, "--max-batch-tokens", "96", blocks=1500) as stack:
        assert ask_all(stack, asked) == list(right.values())
        assert ask_all(stack, asked) == list(right.values())  # the second time from the cache
        counters = stack.stats().counters
        assert counters["hit_tokens"] > 300 * 7


@pytest.mark.slow
@pytest.mark.process
def test_tokens_equal_generate_under_preemption(tmp_path: Path) -> None:
    """With a pool far too small for the load sequences are preempted, and the tokens are still the same."""
    model = make_model(tmp_path / "model", "llama", vocab=384)
    rng = random.Random(5)
    right = Reference(model).decisive(
        lambda: [rng.randrange(FIRST_WORD, 384) for _ in range(rng.randrange(100, 300))], 60, prompts=24
    )
    asked = [list(prompt) for prompt in right]
    log = tmp_path / "steps-{name}.jsonl"
    with running_stack(tmp_path, model, "--max-batch-tokens", "96", "--step-log", str(log), blocks=64) as stack:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda p: stack.complete(p, max_tokens=60, ignore_eos=True), asked))
        assert [a["choices"][0]["token_ids"] for a in answers] == list(right.values())
        assert sum(step_log(tmp_path / f"steps-engine-{i}.jsonl")[-1]["preemptions"] for i in (1, 2)) > 0
        wait_for(lambda: stack.stats().blocks["held"] == 0, "the last release, which follows the last token", 5)
        blocks = stack.stats().blocks
        assert blocks["free"] + blocks["cached"] == blocks["total"]
