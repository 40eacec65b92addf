"""A block that changes tenant is zeroed before its first write, seen in the arena itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.kv.attach import arena_of
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_proto.client.client import KVClient
from tests.support.engine_loop import BLOCKS, Bench, running_engine, words

pytestmark = pytest.mark.process
SLOTS = 16


class NoScrub(CpuAttention):
    """A backend that copies and does not zero."""

    def copy_blocks(self, copies: list[tuple[int, int, int]]) -> None:
        super().copy_blocks([row for row in copies if row[0] >= 0])


class Arena:
    """Makes runners, and keeps the arena that they work on."""

    def __init__(self, backend: type[CpuAttention]) -> None:
        self._backend = backend
        self.blocks = torch.empty(0)

    def runner(self, model: Model, client: KVClient) -> Runner:
        backend = self._backend(arena_of(client))
        self.blocks = backend.arena
        return Runner(model, backend)

    def slots(self) -> torch.Tensor:
        """A copy, [blocks, slots, everything a slot holds]."""
        assert self.blocks.shape[3:5] == (BLOCKS, SLOTS)
        return self.blocks.permute(3, 4, 0, 1, 2, 5).reshape(BLOCKS, SLOTS, -1).clone()


def ask_all(bench: Bench, tenant: str, prompts: list[list[int]]) -> None:
    """Requests that run together, waited for."""
    names = [f"request {len(bench.front.ends) + index}" for index in range(len(prompts))]
    for name, prompt in zip(names, prompts, strict=True):
        bench.ask(name, prompt, tenant=tenant, max_tokens=2)
    for name in names:
        assert bench.end(name).finish == "length"
    bench.empty()


def left_of_a(tmp: Path, backend: type[CpuAttention], second: str) -> tuple[int, int]:
    """Blocks the second tenant wrote to, and slots of them that still hold what tenant a wrote."""
    arena = Arena(backend)
    with running_engine(tmp, arena.runner) as bench:
        ask_all(bench, "a", [words(9 * SLOTS, start=index) for index in range(4)])
        before = arena.slots()
        ask_all(bench, second, [words(SLOTS + 1, start=50 + index) for index in range(8)])
        after = arena.slots()
    same = (before == after).all(-1)
    touched = ~same.all(1)
    return int(touched.sum()), int((same & (before != 0).any(-1))[touched].sum())


def test_nothing_of_one_tenant_is_left_in_a_block_that_another_writes_to(tmp_path: Path) -> None:
    """Tails of blocks that were not written to since are zero, not another's keys and values."""
    touched, left = left_of_a(tmp_path, CpuAttention, "b")

    assert touched >= 16
    assert left == 0


def test_without_the_scrub_it_would_be_there(tmp_path: Path) -> None:
    """The same run with a backend that does not zero finds tenant a's content."""
    _, left = left_of_a(tmp_path, NoScrub, "b")

    assert left > 0


def test_a_tenants_own_blocks_are_not_zeroed(tmp_path: Path) -> None:
    """Scrubbing costs only where the tenant changes."""
    _, left = left_of_a(tmp_path, CpuAttention, "a")

    assert left > 0
