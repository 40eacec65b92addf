"""A row's attention on a CPU, bit by bit: alone, as a decode, in a chunk, a draft, a group, with any others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from quire_engine.attention.cpu import chain
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import build_plan
from tests.support.host_library import need_host_library

need_host_library()

SEQUENCES, LENGTH = 6, 300


@dataclass
class Rows:
    """Queries, keys and values of some sequences that begin alike, in tables whose unwritten slots are NaN."""

    heads: int
    kv_heads: int
    width: int
    size: int
    seed: int
    dtype: torch.dtype = torch.float32
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = np.random.default_rng(self.seed)
        shared, needed = int(self.draw.integers(40, 260)) // self.size, -(-LENGTH // self.size)
        self.shared = shared * self.size
        blocks = self.draw.permutation(shared + SEQUENCES * needed).astype(np.int32)
        common, own = blocks[:shared], blocks[shared:].reshape(SEQUENCES, needed)
        self.tables = [np.concatenate([common, row])[:needed] for row in own]
        self.blocks = len(blocks)
        self.query = torch.randn(SEQUENCES, LENGTH, self.heads, self.width).to(self.dtype)
        self.query[:, : self.shared] = self.query[:1, : self.shared]
        self.kv = torch.randn(2, SEQUENCES, LENGTH, self.kv_heads, self.width).to(self.dtype)
        self.kv[:, :, : self.shared] = self.kv[:, :1, : self.shared]
        self.options["scale"] = self.width**-0.5

    def empty(self) -> CpuAttention:
        """A backend over an arena in which nothing is written."""
        shape = (1, 2, self.kv_heads, self.blocks, self.size, self.width)
        return CpuAttention(torch.full(shape, torch.nan, dtype=self.dtype))

    def step(self, attention: CpuAttention, which: list[int], starts: list[int], counts: list[int]) -> torch.Tensor:
        """One step: the results of ``counts`` tokens from ``starts`` on of the sequences ``which``."""
        plan = build_plan([self.tables[i] for i in which], starts, counts, self.size)
        spans = list(zip(which, starts, counts, strict=True))
        keys, values = (torch.cat([x[i, s : s + n] for i, s, n in spans]).transpose(0, 1) for x in self.kv)
        query = torch.cat([self.query[i, s : s + n] for i, s, n in spans]).transpose(0, 1)
        attention.write_kv(0, keys, values, plan)
        return attention.attend(0, query, plan, **self.options)

    def alone(self) -> torch.Tensor:
        """Results of each sequence in one step of its own: [sequences, length, heads, d]."""
        return torch.stack([self.step(self.empty(), [i], [0], [LENGTH]) for i in range(SEQUENCES)])

    def together(self) -> torch.Tensor:
        """The same in steps of several sequences, in chunks of any size, decodes among them."""
        attention, found = self.empty(), torch.full_like(self.query, torch.nan)
        found[:, : self.shared] = self.step(attention, [0], [0], [self.shared])
        done = [self.shared] * SEQUENCES
        while min(done) < LENGTH:
            which = [i for i, n in enumerate(done) if n < LENGTH and self.draw.random() < 0.9]
            if not which:
                continue
            counts = [min(LENGTH - done[i], int(self.draw.choice([1, 1, 1, 2, 5, 30]))) for i in which]
            rows = self.step(attention, which, [done[i] for i in which], counts).split(counts)
            for i, count, row in zip(which, counts, rows, strict=True):
                found[i, done[i] : done[i] + count] = row
                done[i] += count
        return found


def capped(x: float) -> dict[str, Any]:
    return {"softcap": x, "sinks": torch.linspace(-3.0, 3.0, 4)}


DTYPES = [torch.float32, torch.bfloat16]
SHAPES: dict[str, Callable[[torch.dtype], Rows]] = {
    "grouped heads": lambda dtype: Rows(6, 2, 64, 16, 1, dtype),
    "one key head": lambda dtype: Rows(9, 1, 80, 5, 2, dtype),
    "large blocks": lambda dtype: Rows(2, 2, 256, 64, 3, dtype),
    "window": lambda dtype: Rows(4, 2, 32, 16, 4, dtype, {"window": 37}),
    "wide window": lambda dtype: Rows(4, 4, 16, 16, 5, dtype, {"window": 250}),
    "sinks and soft-cap": lambda dtype: Rows(4, 2, 48, 8, 6, dtype, capped(3.0)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_the_same_in_any_step(shape: str, dtype: torch.dtype) -> None:
    """Groups of any length, chunks that begin and end anywhere, and decodes give the same bits."""
    torch.manual_seed(0)
    rows = SHAPES[shape](dtype)
    assert torch.equal(rows.together(), rows.alone())


@pytest.mark.parametrize("dtype", DTYPES)
def test_single_tokens_are_what_a_prompt_is(dtype: torch.dtype) -> None:
    """A sequence computed token by token has the results of one computed at once."""
    torch.manual_seed(0)
    rows = SHAPES["grouped heads"](dtype)
    attention, whole = rows.empty(), rows.alone()[0]
    assert all(torch.equal(rows.step(attention, [0], [i], [1])[0], whole[i]) for i in range(LENGTH))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", ["states anywhere", "PyTorch"])
def test_each_fault_is_seen(fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that ends between two tiles of keys, and PyTorch's own attention, change bits."""
    torch.manual_seed(0)
    rows = SHAPES["grouped heads"](dtype)
    if fault == "PyTorch":
        monkeypatch.setattr("quire_engine.attention.cpu.attention.supports", lambda _: False)
    else:
        monkeypatch.setattr(chain, "KEYS", 16)  # the tables' blocks
        assert rows.shared % 64
    assert not torch.equal(rows.together(), rows.alone())
