"""Waste of the running stack, sampled each step, beside a contiguous allocation of the same load."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.models.tiny import FIRST_WORD, make_model
from tests.support.stack import running_stack, step_log

MAX_TOKENS = 4096


@pytest.mark.slow
@pytest.mark.process
def test_waste_is_under_four_percent(tmp_path: Path) -> None:
    """Slots of all held blocks, extended-ahead ones included, are over 96 % filled on average; contiguous are not."""
    model = make_model(tmp_path / "model", vocab=256, max_len=8192)
    rng = random.Random(9)
    # Total lengths with a mean of 500 tokens, about half of it generated.
    lengths = [max(16, min(2000, round(rng.expovariate(1 / 500)))) for _ in range(32)]
    asked = [([rng.randrange(FIRST_WORD, 256) for _ in range(max(1, n // 2))], max(1, n - n // 2)) for n in lengths]
    log = tmp_path / "steps-{name}.jsonl"
    with running_stack(tmp_path, model, "--step-log", str(log), blocks=2048) as stack:
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda a: stack.complete(a[0], max_tokens=a[1], ignore_eos=True), asked))
    steps = [s for i in (1, 2) for s in step_log(tmp_path / f"steps-engine-{i}.jsonl") if s["slots_held"]]
    paged = 1 - sum(s["slots_filled"] / s["slots_held"] for s in steps) / len(steps)
    reserved = [s["running"] * MAX_TOKENS for s in steps]
    contiguous = 1 - sum(s["slots_filled"] / r for s, r in zip(steps, reserved, strict=True)) / len(steps)
    print(f"\nwaste: paged {paged:.2%}, contiguous {contiguous:.2%}, over {len(steps)} steps")
    assert paged < 0.04
    assert contiguous > 0.5
