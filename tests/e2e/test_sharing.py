"""Really shared: one set of physical blocks for a published prompt, in all engines; private prompts stay private."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.models.tiny import make_model
from quire_proto.client.client import KVClient
from quire_proto.wire.u32 import unpack_u32
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

SYSTEM = " ".join(f"w{(7 * i) % 230}" for i in range(500))
TENANTS = "".join(f'[[tenants]]\nname = "{n}"\nkeys = ["sk-{n}"]\n' for n in ("ada", "bob", "eve"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp = tmp_path_factory.mktemp("sharing")
    (tmp / "system.txt").write_text(SYSTEM)
    config = TENANTS + f'[[published]]\nfile = "{tmp / "system.txt"}"\ndomain = "public"\nid = "agent"\n'
    with running_stack(tmp, make_model(tmp / "model", vocab=256), config=config) as started:
        yield started


def chat(stack: Stack, tenant: str, text: str, **options: Any) -> tuple[dict[str, Any], str]:
    """One greedy answer to the published system prompt and ``text``, and the engine that gave it."""
    body = {
        "model": "m", "temperature": 0, "max_tokens": 4, "ignore_eos": True, "logprobs": True, "top_logprobs": 5,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}], **options,
    }  # fmt: skip
    answer = stack.http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer sk-{tenant}"})
    assert answer.status_code == 200, answer.text
    return answer.json(), answer.headers["x-quire-engine"]


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def published(stack: Stack) -> tuple[int, list[int], list[int]]:
    """Tokens, physical blocks and their references, as the kvstore has them."""
    with KVClient(stack.run_dir, name="test") as client:
        found = client.lookup(publication="agent")
    return found.tokens, list(unpack_u32(found.blocks)), list(unpack_u32(found.references))


def on_both_engines(stack: Stack, tenant: str, text: str, **options: Any) -> dict[str, dict[str, Any]]:
    """The same request until each engine has answered it once, one at a time."""
    answers: dict[str, dict[str, Any]] = {}
    for _ in range(20):
        answer, engine = chat(stack, tenant, text, **options)
        answers[engine] = answer
        if len(answers) == 2:
            return answers
    raise AssertionError(f"only {set(answers)} ever answered")


def first_logprobs(answer: dict[str, Any]) -> list[float]:
    return [t["logprob"] for t in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]]


@pytest.mark.process
def test_a_published_prompt_is_one_set_of_blocks_for_all(stack: Stack) -> None:
    """An engine computes the published prompt unasked; every tenant on either engine then shares those blocks."""
    wait_for(lambda: published(stack)[0], "an engine computed the publication", 30)
    tokens, blocks, _ = published(stack)
    first, engine = chat(stack, "ada", "w1 w2 w3")
    assert cached(first) == tokens
    assert tokens > 500
    assert len(blocks) == -(-tokens // 16)
    for tenant in ("bob", "eve"):
        answers = on_both_engines(stack, tenant, f"w9 w8 {'w7' if tenant == 'bob' else 'w6'}")
        assert {e for e in answers if e != engine}
        assert all(cached(a) >= tokens for a in answers.values())
    assert published(stack)[1] == blocks
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda i: chat(stack, "ada", f"w{i} w{i}", max_tokens=8)[0], range(16)))
    assert all(cached(a) >= tokens for a in many)
    assert published(stack)[1] == blocks


@pytest.mark.process
def test_overwriting_a_shared_block_changes_both_engines_and_nobody_else(stack: Stack) -> None:
    """Bytes changed in the arena by another process change the logits of all that share the block, and of no other."""
    with KVClient(stack.run_dir, name="vandal") as client:
        shape = client.layout.shape(client.num_blocks)
        arena = np.frombuffer(client.map(), np.float32).reshape(shape)
        private = {"messages": [{"role": "user", "content": " ".join(f"w{i % 200}" for i in range(150))}]}
        for _ in range(2):
            before = on_both_engines(stack, "ada", "w5 w4"), on_both_engines(stack, "ada", "", **private)
        block = published(stack)[1][3]
        kept = arena[:, :, :, block].copy()
        try:
            arena[:, :, :, block] += 1.5
            after = on_both_engines(stack, "ada", "w5 w4"), on_both_engines(stack, "ada", "", **private)
        finally:
            arena[:, :, :, block] = kept
        restored = on_both_engines(stack, "ada", "w5 w4")
        del arena
    assert all(cached(a) > 100 for a in before[1].values())
    for engine in before[0]:
        assert first_logprobs(after[0][engine]) != first_logprobs(before[0][engine])
        assert first_logprobs(after[1][engine]) == first_logprobs(before[1][engine])
        assert first_logprobs(restored[engine]) == first_logprobs(before[0][engine])


@pytest.mark.process
def test_a_private_prompt_is_private(stack: Stack) -> None:
    """Its own tenant hits it, on either engine; another tenant that sends the same tokens reports 0 cached tokens."""
    private = {"messages": [{"role": "user", "content": " ".join(f"w{(3 * i) % 190}" for i in range(200))}]}
    chat(stack, "ada", "", **private)
    assert all(cached(a) >= 192 for a in on_both_engines(stack, "ada", "", **private).values())
    assert cached(chat(stack, "bob", "", **private)[0]) == 0


def private_bytes(pid: int) -> int:
    """Anonymous memory of a process: what is its own and not of a shared mapping."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@pytest.mark.process
@pytest.mark.slow
def test_engines_hold_no_copy_of_the_pool(tmp_path: Path) -> None:
    """While half the pool fills, an engine's private memory grows by less than 5 % of the arena."""
    model = make_model(tmp_path / "model", layers=4, hidden=512, heads=4, kv_heads=4, head_dim=128, vocab=256)
    with running_stack(tmp_path, model, blocks=1024) as stack:
        layout = stack.stats().layout
        for i in range(4):  # warm up: libraries, thread pools, workspaces
            stack.complete([10 + i] * 600, max_tokens=2)
        pids = stack.ready_sessions().values()
        before = {pid: private_bytes(pid) for pid in pids}
        filled = 0
        while filled < 1024 // 2:
            stack.complete([(11 * filled + i) % 200 + 20 for i in range(900)], max_tokens=2)
            blocks = stack.stats().blocks
            filled = blocks["total"] - blocks["free"]
        for pid in pids:
            assert private_bytes(pid) - before[pid] < 0.05 * layout.arena_bytes(1024)
