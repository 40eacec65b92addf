"""Prefill once, with real engines: a new prompt that many ask for at once is computed once, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.models.tiny import FIRST_WORD, make_model
from quire_proto.messages import SessionInfo
from tests.support.reference import Reference
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

pytestmark = pytest.mark.process

AGAIN_S = 90


def words(count: int) -> list[int]:
    """A prompt of so many tokens, of a vocabulary of 256."""
    return [FIRST_WORD + (7 * i + i // 31) % (256 - FIRST_WORD) for i in range(count)]


def herd(stack: Stack, prompt: list[int], requests: int, **options: Any) -> list[tuple[str, list[int]]]:
    """The same prompt from so many clients at once: of each the engine that answered and the tokens.

    A client whose engine died sends its request again, as clients do.
    """
    body = {"model": "m", "prompt": prompt, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **options}
    start = threading.Barrier(requests)

    def ask(number: int) -> tuple[str, list[int]]:
        start.wait(60)
        answer: list[httpx.Response] = []

        def answered() -> bool:
            answer[:] = [http.post("/v1/completions", json=body | {"seed": number})]
            return answer[0].status_code == 200

        wait_for(answered, f"request {number} is answered", AGAIN_S)
        return answer[0].headers["x-quire-engine"], answer[0].json()["choices"][0]["token_ids"]

    many = httpx.Limits(max_connections=requests)
    with httpx.Client(base_url=stack.url, timeout=AGAIN_S, trust_env=False, limits=many) as http:
        with ThreadPoolExecutor(requests) as pool:
            return list(pool.map(ask, range(requests)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("engines", "requests", "size"),
    [
        (2, 24, 480),
        pytest.param(4, 200, 2000, marks=pytest.mark.slow),
        pytest.param(4, 200, 2007, marks=pytest.mark.slow),
    ],
)
def test_a_herd_computes_a_new_prompt_once(tmp_path: Path, engines: int, requests: int, size: int) -> None:
    """Many clients, several engines, one new prompt: every block is computed once, and each request beyond the first
    computes only what is no full block, a token at least."""
    model, prompt = make_model(tmp_path / "model", vocab=256), words(size)
    expected = Reference(model).greedy(prompt, 4)
    with running_stack(tmp_path, model, engines=engines) as stack:
        answers = herd(stack, prompt, requests, max_tokens=4)
        assert len({engine for engine, _ in answers}) == engines, "all engines took part"
        assert [tokens for _, tokens in answers] == [expected] * requests
        counters = stack.stats().counters
        print({name: counters[name] for name in ("allocates", "claimed", "waits", "seals", "copies", "duplicates")})
        assert counters["prompt_tokens"] == size * requests
        assert counters["prompt_tokens"] - counters["hit_tokens"] == size + (requests - 1) * (size % 16 or 1)
        assert (counters["seals"], counters["duplicates"]) == (size // 16, 0)
        assert counters["waits"] <= engines, "a herd on one engine waits with one message"


def owner(stack: Stack) -> SessionInfo | None:
    """The session that is computing, if it has sealed a part of the prompt."""
    stats = stack.stats()
    if not 2 <= stats.counters["seals"] <= 20:
        return None
    return next((s for s in stats.sessions if s.state == "ready" and s.blocks), None)


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_a_herd_survives_its_owner_in_a_small_pool(tmp_path: Path) -> None:
    """One batch slot an engine, no room for a second copy, and the owner is killed while it computes: all requests
    are answered, each block is computed by one engine, and what the dead one had sealed is not computed again."""
    shape = {"layers": 4, "hidden": 256, "heads": 4, "kv_heads": 4}
    model, prompt = make_model(tmp_path / "model", vocab=256, **shape), words(510)
    config = "[engine]\nmax_sequences = 1\nmax_batch_tokens = 16\n"
    killed: list[int] = []
    with running_stack(tmp_path, model, blocks=34, config=config) as stack, ThreadPoolExecutor(1) as pool:

        def kill() -> None:
            session = wait_for(lambda: owner(stack), "an owner has sealed a part", 60)
            os.kill(session.pid, signal.SIGKILL)
            killed.append(session.pid)

        killer = pool.submit(kill)
        answers = herd(stack, prompt, 8, max_tokens=8, temperature=1.0)
        killer.result()
        assert killed
        assert all(len(tokens) == 8 for _, tokens in answers)
        wait_for(lambda: stack.stats().blocks["held"] == 0, "everything came back", 10)
        counters, blocks = stack.stats().counters, stack.stats().blocks
        print({name: counters[name] for name in ("claimed", "waits", "seals", "duplicates", "no_space", "evictions")})
        assert counters["duplicates"] == 0
        assert counters["seals"] == 510 // 16 + 8, "the prompt's blocks once, and each answer's own"
        assert counters["reclaimed_sessions"] >= 1
        assert blocks["free"] + blocks["cached"] == blocks["total"]
        again = stack.complete(prompt, max_tokens=8, temperature=1.0, seed=3, ignore_eos=True)
        assert again["choices"][0]["token_ids"] == answers[3][1]
        wait_for(lambda: len(stack.ready_sessions()) == 2, "the engine came back", 60)
