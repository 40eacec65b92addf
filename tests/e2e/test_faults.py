"""Processes die at any instant: the others go on, nothing leaks, everything comes back."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bench.models.tiny import FIRST_WORD, make_model
from tests.support.reference import Reference
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

NEW = 300
LONG = 1500


def stream(stack: Stack, prompt: list[int], tokens: int) -> tuple[str, list[int], bool]:
    """A streamed completion: (engine, tokens received, whether it finished)."""
    body = {
        "model": "m", "prompt": prompt, "temperature": 0, "max_tokens": tokens, "ignore_eos": True,
        "stream": True, "return_token_ids": True,
    }  # fmt: skip
    got: list[int] = []
    with httpx.stream("POST", f"{stack.url}/v1/completions", json=body, timeout=60, trust_env=False) as answer:
        engine = answer.headers["x-quire-engine"]
        if answer.status_code != 200:
            assert answer.status_code == 503
            return engine, [], False
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                return engine, got, len(got) == tokens
            if line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    return engine, got, False
                for choice in chunk["choices"]:
                    got += choice.get("token_ids") or []
    return engine, got, False


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [1, 20])
def test_killed_engines_harm_no_stream(tmp_path: Path, kills: int) -> None:
    """Kill -9 of an engine in mid-generation: all streams of both engines end with the right tokens."""
    model = make_model(tmp_path / "model", vocab=256)
    rng = random.Random(1)
    expected = Reference(model).decisive(
        lambda: [rng.randrange(FIRST_WORD, 256) for _ in range(rng.randrange(5, 120))], NEW, prompts=8
    )
    prompts = [list(prompt) for prompt in expected]
    moved = 0
    with running_stack(tmp_path, model) as stack, ThreadPoolExecutor(8) as pool:
        for _ in range(kills):
            running_now: list[tuple[list[int], Future[tuple[str, list[int], bool]]]] = [
                (p, pool.submit(stream, stack, p, NEW)) for p in prompts
            ]
            wait_for(lambda: stack.stats().blocks["held"] > 0, "requests are running", 10)
            time.sleep(rng.uniform(0, 0.3))
            victim, pid = rng.choice(sorted(stack.ready_sessions().items()))
            os.kill(pid, signal.SIGKILL)
            for prompt, future in running_now:
                engine, tokens, finished = future.result()
                assert (tokens, finished) == (expected[tuple(prompt)], True)
                moved += engine == victim
            wait_for(lambda: stack.stats().blocks["held"] == 0, "the dead engine's blocks came back", 3)
            blocks = stack.stats().blocks
            assert blocks["quarantined"] == 0
            assert blocks["free"] + blocks["cached"] == blocks["total"]
            wait_for(lambda: len(stack.ready_sessions()) == 2 and stack.health() == 200, "the engine came back", 60)
            wait_for(lambda: ready_engines(stack) == 2, "the gateway sees both engines", 60)
    assert moved > 0


def ready_engines(stack: Stack) -> int:
    return int(stack.http.get("/health").json()["engines"]["ready"])


@pytest.mark.process
def test_a_killed_kvstore_is_replaced(tmp_path: Path) -> None:
    """/health says so, within 5 s (x3) engines serve from the new boot, and what was in flight ends there."""
    model = make_model(tmp_path / "model", vocab=256)
    prompt = [FIRST_WORD + i for i in range(40)]
    expected = Reference(model).greedy(prompt, 12)
    with running_stack(tmp_path, model) as stack, ThreadPoolExecutor(4) as pool:
        assert stack.complete(prompt, max_tokens=12, ignore_eos=True)["choices"][0]["token_ids"] == expected
        boot = stack.stats().boot
        url = f"{stack.url}/v1/completions"
        body = {"model": "m", "prompt": prompt, "max_tokens": LONG, "temperature": 0, "ignore_eos": True}
        body["return_token_ids"] = True
        inflight = [pool.submit(httpx.post, url, json=body, timeout=60, trust_env=False) for _ in range(4)]
        wait_for(lambda: sum(s.sequences for s in stack.stats().sessions) == 4, "all requests are running", 10)
        killed = time.monotonic()
        os.kill(stack.pid_of("kvstore"), signal.SIGKILL)
        seen: set[int] = set()

        def back() -> bool:
            seen.add(health := stack.health())
            return 503 in seen and health == 200 and len(stack.ready_sessions()) == 2

        wait_for(back, "engines are attached to the new kvstore, after /health said 503", 15)
        print(f"\nengines re-attached after {time.monotonic() - killed:.2f} s")
        assert stack.stats().boot != boot
        answers = [f.result().json()["choices"][0]["token_ids"] for f in inflight]
        assert [len(tokens) for tokens in answers] == [LONG] * 4
        assert [tokens[:12] for tokens in answers] == [expected] * 4
        answer = stack.complete(prompt, max_tokens=12, ignore_eos=True)
        assert answer["choices"][0]["token_ids"] == expected


@pytest.mark.slow
@pytest.mark.process
def test_an_engine_that_hangs_when_its_kvstore_dies(tmp_path: Path) -> None:
    """No kvstore knows it any more: the supervisor replaces it within 20 s (x3) of the new one, and no other."""
    model = make_model(tmp_path / "model", vocab=256)
    with running_stack(tmp_path, model) as stack:
        before = stack.ready_sessions()
        os.kill(before["engine-1"], signal.SIGSTOP)
        os.kill(stack.pid_of("kvstore"), signal.SIGKILL)
        stack.says("engine-1 has not come back to the new kvstore", seconds=60)
        wait_for(lambda: len(stack.ready_sessions()) == 2, "both serve", 60)
        now = stack.ready_sessions()
        assert now["engine-1"] != before["engine-1"]
        assert now["engine-2"] == before["engine-2"]


@pytest.mark.process
def test_a_hang_up_frees_the_blocks(tmp_path: Path) -> None:
    """A client that closes its stream in mid-answer frees its blocks."""
    model = make_model(tmp_path / "model", vocab=256)
    with running_stack(tmp_path, model, engines=1) as stack:
        # Eight continuations of 3000 tokens take far longer than the deadline below: only an abort can meet it.
        body = {"model": "m", "prompt": [9] * 50, "max_tokens": 3000, "n": 8, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{stack.url}/v1/completions", json=body, timeout=60, trust_env=False) as answer:
            lines = answer.iter_lines()  # kept: httpx hangs up as soon as the iterator is gone
            next(lines)
            wait_for(lambda: stack.stats().blocks["held"] > 0, "the stream holds blocks", 5)
        wait_for(lambda: stack.stats().blocks["held"] == 0, "the blocks of the stream came back", 5)
