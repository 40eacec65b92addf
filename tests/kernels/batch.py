"""Random paged batches, and the error rule that kernels are held to.

A batch's blocks are scattered over a pool in which every slot that no sequence has written holds NaN: whatever
reads it shows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_kernels.features import Features
from quire_kernels.gpu.attention import Scratch, attention
from quire_kernels.gpu.device_work import Capacity, DeviceWork
from quire_kernels.gpu.launch_table import Launch
from quire_kernels.gpu.tiling import REGIMES, Shape, tile_items
from quire_kernels.reference import paged_attention_ref

DEVICE = torch.device(os.environ.get("QUIRE_TEST_DEVICE", "cpu"))


@dataclass
class Batch:
    """A packed batch over its own pool; ``keys`` and ``values`` are [kv_heads, blocks, block_size, d]."""

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    tables: list[np.ndarray]
    starts: list[int]
    counts: list[int]
    features: Features

    def plan(self, group: bool = True) -> AttentionPlan:
        """The engine's plan of this batch."""
        return build_plan(self.tables, self.starts, self.counts, self.keys.shape[2], group=group)


def make_batch(
    starts: Sequence[int],
    counts: Sequence[int],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    width: int = 64,
    block_size: int = 16,
    dtype: torch.dtype = torch.float16,
    shared: int = 0,
    seed: int = 0,
    **features: object,
) -> Batch:
    """Sequences with ``starts`` tokens in the arena and ``counts`` query tokens; the first ``shared`` blocks of all
    sequences are the same."""
    random = torch.Generator().manual_seed(seed)
    needed = [-(-(s + c) // block_size) for s, c in zip(starts, counts, strict=True)]
    pool = torch.randperm(shared + sum(n - shared for n in needed) + 3, generator=random).numpy().astype(np.int32)
    common, rest = pool[:shared], pool[shared:]
    tables, fills = [], {int(b): block_size for b in common}
    for need, start, count in zip(needed, starts, counts, strict=True):
        own, rest = rest[: need - shared], rest[need - shared :]
        tables.append(np.concatenate([common, own]))
        for i, block in enumerate(tables[-1]):
            fills[int(block)] = min(block_size, start + count - i * block_size)
    keys = torch.full((kv_heads, len(pool), block_size, width), torch.nan)
    values = torch.full_like(keys, torch.nan)
    for block, fill in fills.items():
        keys[:, block, :fill] = torch.randn(kv_heads, fill, width, generator=random)
        values[:, block, :fill] = torch.randn(kv_heads, fill, width, generator=random)
    query = torch.randn(heads, sum(counts), width, generator=random)
    return Batch(
        query.to(dtype).to(DEVICE),
        keys.to(dtype).to(DEVICE),
        values.to(dtype).to(DEVICE),
        tables,
        list(starts),
        list(counts),
        Features(**{"scale": width**-0.5, **features}),  # type: ignore[arg-type]
    )


def device_work(
    batch: Batch,
    *,
    group: bool = True,
    block_m: int = 16,
    sm_count: int = 1,
    fixed_run: int | None = None,
    capacity: Capacity | None = None,
) -> DeviceWork:
    """The batch's tiles on the device."""
    plan = batch.plan(group)
    kv_heads, ratio = batch.keys.shape[0], batch.query.shape[0] // batch.keys.shape[0]
    shape = Shape(kv_heads, ratio, dict.fromkeys(REGIMES, Launch(block_m, 16, 4, 1)), sm_count, fixed_run)
    tiles = tile_items(plan.items(batch.features.window), plan.positions, plan.block_size, shape)
    work = DeviceWork(capacity or Capacity.of(tiles, len(plan.positions), len(plan.table)), DEVICE)
    work.refill(tiles, plan.positions, plan.slots, plan.table)
    return work


def run(batch: Batch, work: DeviceWork, *, block_m: int = 16, block_n: int = 16, fill: float = 0.0) -> torch.Tensor:
    """Kernel output, [T, heads, d]; rows that no tile names keep ``fill``."""
    heads, rows, width = batch.query.shape
    launches = dict.fromkeys(REGIMES, Launch(block_m, block_n, 4, 1))
    out = torch.full((rows, heads, width), fill, dtype=batch.query.dtype, device=DEVICE)
    scratch = Scratch(heads, width, DEVICE)
    return attention(
        batch.query, batch.keys, batch.values, work, launches, batch.features, scratch, out, sm_count=1
    ).cpu()


def reference(batch: Batch, compute: torch.dtype) -> torch.Tensor:
    """What plain PyTorch makes of the batch in ``compute``."""
    host = {n: None if t is None else t.cpu() for n, t in _tensors(batch.features).items()}
    features = replace(batch.features, **host)
    return paged_attention_ref(
        batch.query.cpu(),
        batch.keys.cpu(),
        batch.values.cpu(),
        [t.tolist() for t in batch.tables],
        batch.starts,
        batch.counts,
        features,
        compute,
    )


def _tensors(features: Features) -> dict[str, torch.Tensor | None]:
    return {name: getattr(features, name) for name in ("sinks", "slopes", "k_scale", "v_scale")}


def assert_no_worse(batch: Batch, got: torch.Tensor) -> None:
    """The error rule: against exact arithmetic, at most twice the error of plain PyTorch in the same dtype.

    Errors are root mean squares over the whole output. Where plain PyTorch is exact by luck, one rounding of the
    output's dtype is allowed: nothing can be held to an error of 0.
    """
    exact = reference(batch, torch.float64)
    plain = reference(batch, batch.query.dtype).double()
    assert got.shape == exact.shape
    allowed = 2 * _rms(plain - exact)
    if allowed == 0:
        allowed = torch.finfo(got.dtype).eps * max(_rms(exact), torch.finfo(got.dtype).tiny)
    error = _rms(got.double() - exact)
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"  # false for NaN, too


def _rms(x: torch.Tensor) -> float:
    return float(x.pow(2).mean().sqrt())
