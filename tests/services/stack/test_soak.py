"""The long run: random processes are killed at random instants under load, and the stack comes back each time.

``SOAK_SECONDS`` says how long (default five minutes), ``SOAK_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import psutil
import pytest

from bench.models.tiny import FIRST_WORD, make_model
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

VOCABULARY = 128


def _load(stack: Stack, stop: Event, seed: int) -> int:
    """Send completions until told to stop; returns how many were answered. Errors are what kills cause."""
    rng, answered = random.Random(seed), 0
    while not stop.is_set():
        prompt = [rng.randrange(FIRST_WORD, VOCABULARY) for _ in range(rng.randint(1, 120))]
        body = {"model": "m", "prompt": prompt, "max_tokens": rng.randint(1, 60), "n": rng.choice((1, 1, 3))}
        try:
            answered += stack.http.post("/v1/completions", json=body).status_code == 200
        except httpx.TransportError:
            stop.wait(0.2)
    return answered


@pytest.mark.soak
@pytest.mark.process
@pytest.mark.timeout(0)
def test_random_kills_under_load_leave_a_whole_stack(tmp_path: Path) -> None:
    """After every kill the stack is ready again; at the end no block is held and answers were given throughout."""
    seed = int(os.environ.get("SOAK_SEED", str(random.randrange(10**6))))
    end = time.monotonic() + float(os.environ.get("SOAK_SECONDS", "300"))
    rng, stop, kills = random.Random(seed), Event(), 0
    print(f"\nSOAK_SEED={seed}")
    model = make_model(tmp_path / "model", vocab=VOCABULARY, hidden=32, heads=2, kv_heads=1)
    with running_stack(tmp_path, model, "--debug", blocks=128) as stack, ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(_load, stack, stop, seed + i) for i in range(4)]
        try:
            while time.monotonic() < end:
                time.sleep(rng.uniform(0.2, 3))
                victim = rng.choice(psutil.Process(stack.process.pid).children())
                victim.send_signal(signal.SIGKILL)
                victim.wait(10)
                kills += 1
                stack.wait_ready(2)
        finally:
            stop.set()
        answered = [load.result() for load in loads]
        print(f"{kills} kills, {sum(answered)} requests answered")
        wait_for(lambda: not stack.stats().blocks["held"], "no block is held", 30)
        assert stack.stats().counters["internal_errors"] == 0
        assert kills > 0
        assert all(answered)
