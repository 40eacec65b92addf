"""Batching is continuous: short requests overtake long ones, prefill chunks run beside decodes."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.models.tiny import FIRST_WORD, make_model
from tests.support.stack import running_stack, step_log
from tests.support.waits import wait_for


@pytest.mark.slow
@pytest.mark.process
def test_short_requests_overtake_a_long_one(tmp_path: Path) -> None:
    """Eight short requests sent after one of 400 tokens finish first."""
    model = make_model(tmp_path / "model", vocab=256)
    with running_stack(tmp_path, model, engines=1) as stack:

        def timed(words: int, tokens: int) -> float:
            stack.complete([FIRST_WORD + words] * words, max_tokens=tokens, ignore_eos=True)
            return time.monotonic()

        with ThreadPoolExecutor(9) as pool:
            long = pool.submit(timed, 20, 400)
            wait_for(lambda: stack.stats().blocks["held"], "the long request runs", 5)
            short = [pool.submit(timed, 5 + i, 8) for i in range(8)]
            assert max(s.result() for s in short) < long.result()


@pytest.mark.slow
@pytest.mark.process
def test_prefill_chunks_share_steps_with_decodes(tmp_path: Path) -> None:
    """At concurrency 12 steps mix prefill chunks with at least 4 decodes; one message a step is enough."""
    model = make_model(tmp_path / "model", vocab=256)
    rng = random.Random(3)
    asked = [[rng.randrange(FIRST_WORD, 256) for _ in range(rng.randrange(50, 400))] for _ in range(48)]
    log = tmp_path / "steps-{name}.jsonl"
    with running_stack(tmp_path, model, "--max-batch-tokens", "64", "--step-log", str(log), engines=1) as stack:
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda p: stack.complete(p, max_tokens=96, ignore_eos=True), asked))
    steps = step_log(tmp_path / "steps-engine-1.jsonl")
    mixed = [s for s in steps if s["prefill_rows"] and s["decode_rows"] >= 4]
    assert len(mixed) >= 20
    decoding = [s["decode_rows"] for s in steps if s["decode_rows"]]
    assert sum(decoding) / len(decoding) >= 8
    assert all(s["prefill_tokens"] + s["decode_rows"] <= 64 for s in steps)
    assert steps[-1]["messages"] <= steps[-1]["step"] + 1
