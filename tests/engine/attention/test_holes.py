"""Tables whose beginning was given back, as every window has left it behind: no backend looks at what stands there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import build_plan
from quire_engine.attention.triton import TritonAttention
from quire_engine.sequences.sequence import GIVEN_BACK
from tests.kernels.batch import DEVICE
from tests.support.dense_attention import random_batch
from tests.support.host_library import need_host_library

need_host_library()

SIZE, HEADS, KV_HEADS, WIDTH, POISON = 16, 4, 2, 32, 0
# (shared blocks, tokens before the step, query tokens): decodes, chunks, one inside its window, one of one token.
ROWS = [(4, 40, 1), (4, 41, 1), (4, 200, 1), (4, 5, 30), (2, 90, 7), (2, 90, 150), (0, 0, 41), (0, 299, 1), (0, 0, 1)]
FEW = [(4, 41, 1), (4, 20, 18), (0, 120, 1)]  # Triton is interpreted

BACKENDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "compiled": CpuAttention,
    "pytorch": lambda arena: CpuAttention(arena, compiled=False),
    "triton": lambda arena: TritonAttention(arena.to(DEVICE), HEADS),
}
CASES = [(name, window) for name in ("compiled", "pytorch") for window in (16, 17, 40, 64, 150)] + [("triton", 33)]


@pytest.mark.parametrize(("backend", "window"), CASES)
def test_a_hole_is_never_read(backend: str, window: int) -> None:
    """With this window, and a narrower one, results are the same to the bit where the entries name a block of NaN, and
    where they name none."""
    draw = np.random.default_rng(window)
    rows = FEW if backend == "triton" else ROWS
    batch = random_batch(draw, block_size=SIZE, shared=[n for n, _, _ in rows], private=[(p, c) for _, p, c in rows])
    whole = [table + 1 for table in batch.tables]
    holes = [max(0, int(start + 1 - window) // SIZE) for start in batch.starts]
    assert sum(holes) > 10
    arena = torch.from_numpy(draw.standard_normal((1, 2, KV_HEADS, batch.blocks + 1, SIZE, WIDTH), dtype=np.float32))
    arena[:, :, :, POISON] = math.nan
    total = sum(batch.counts)
    query, key, value = (
        torch.from_numpy(draw.standard_normal((n, total, WIDTH), dtype=np.float32)) for n in (HEADS, KV_HEADS, KV_HEADS)
    )

    for narrow in (window, window - 9) if backend != "triton" else (window,):
        found = []
        for entry in (None, POISON, GIVEN_BACK):
            tables = [table.copy() for table in whole]
            for table, hole in zip(tables if entry is not None else (), holes, strict=False):
                table[:hole] = entry
            attention = BACKENDS[backend](arena)
            plan = build_plan(tables, batch.starts, batch.counts, SIZE)
            attention.write_kv(0, key.to(attention.arena.device), value.to(attention.arena.device), plan)
            out = attention.attend(0, query.to(attention.arena.device), plan, scale=WIDTH**-0.5, window=narrow)
            found.append(out)

        assert not found[0].isnan().any()
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
