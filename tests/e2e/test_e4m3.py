"""The stack over a pool of e4m3 keys and values gives the tokens of transformers over a cache rounded the same way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bench.models.tiny import make_model
from quire_engine.checkpoint.kv_scales import KvScales
from tests.support.reference import Reference
from tests.support.rounded_cache import RoundedCache
from tests.support.stack import running_stack

VOCAB, NEW, SHARED = 256, 8, 40
LENGTHS = (SHARED + 5, SHARED + 9, 1, 16, 21, 37)  # the first two share a prefix, the last forks inside a block
# Logits. Where a key lies between two e4m3 numbers, the order of additions decides which; so one element in some
# ten thousand may differ by a step of 1/16, and the answer must not hang on that.
MARGIN = 0.02


@pytest.mark.process
@pytest.mark.parametrize("attention", [pytest.param(name, marks=pytest.mark.slow) for name in ("cpu", "triton")])
def test_two_engines_give_the_tokens_of_a_rounded_cache(
    attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared prefix, a fork and two engines over one pool a quarter the size, each head with a scale of its own."""
    if attention == "triton":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    model = make_model(tmp_path / "model", layers=2, head_dim=64, vocab=VOCAB)
    draw = np.random.default_rng(0)
    scales = KvScales(*draw.uniform(0.05, 0.3, (2, 2, 2)).astype(np.float32))
    scales.write(model)
    reference = Reference(model)
    right = reference.prompts(LENGTHS, SHARED, NEW, VOCAB, MARGIN, lambda: RoundedCache(scales))
    assert any(reference.greedy([*p], NEW, margin=0) != tokens for p, tokens in right.items()), "rounding hides"
    first, *others = ([*prompt] for prompt in right)
    flags = ("--attention", attention, "--kv-cache-dtype", "fp8")
    with running_stack(tmp_path, model, *flags, engines=2, blocks=64) as stack:

        def ask(prompt: list[int]) -> list[list[int]]:
            n = 2 if len(prompt) == LENGTHS[-1] else 1
            answer = stack.complete(prompt, max_tokens=NEW, ignore_eos=True, n=n)
            return [choice["token_ids"] for choice in answer["choices"]]

        got = [ask(first)]  # its blocks are sealed before the second prompt begins with them
        with ThreadPoolExecutor(3) as pool:
            got += pool.map(ask, others)
        stats = stack.stats()
    assert got == [[tokens] * (1 + (len(prompt) == LENGTHS[-1])) for prompt, tokens in right.items()]
    assert stats.counters["hit_tokens"] == SHARED // 16 * 16
    assert (stats.counters["forks"], stats.counters["copies"]) == (1, 1)
    assert stats.layout.dtype == "float8_e4m3fn"
