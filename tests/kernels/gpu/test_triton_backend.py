"""The Triton backend stands in for the CPU backend: same plans, same arena, same results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_engine.attention.triton import TritonAttention, _waves
from quire_kernels.features import Features
from quire_kernels.reference import paged_attention_ref
from tests.kernels.batch import DEVICE

BLOCK, WIDTH, KV_HEADS, HEADS = 16, 16, 2, 4


def arena_with(plan: AttentionPlan, random: torch.Generator) -> torch.Tensor:
    """Two layers in which all that was written before the step is random and the rest is NaN."""
    blocks = int(plan.table.max()) + 2
    arena = torch.full((2, 2, KV_HEADS, blocks, BLOCK, WIDTH), torch.nan)
    for table, start in zip(plan.tables, plan.starts.tolist(), strict=True):
        for i, block in enumerate(table.tolist()):
            fill = min(BLOCK, max(0, start - i * BLOCK))
            fresh = arena[0, 0, 0, block, :fill].isnan().all()
            if fill and fresh:
                arena[:, :, :, block, :fill] = torch.randn(2, 2, KV_HEADS, fill, WIDTH, generator=random)
    return arena


def step(seed: int, rows: list[tuple[int, int]], shared: int) -> tuple[AttentionPlan, torch.Tensor, list[torch.Tensor]]:
    """Plan, arena, and query, key and value of a step whose sequences share leading blocks as far as they can."""
    random = torch.Generator().manual_seed(seed)
    needs = [-(-(start + count) // BLOCK) for start, count in rows]
    pool = torch.randperm(shared + sum(needs), generator=random).numpy().astype(np.int32)
    tables, used = [], shared
    for need, (start, _) in zip(needs, rows, strict=True):
        common = min(shared, start // BLOCK)
        tables.append(np.concatenate([pool[:common], pool[used : used + need - common]]))
        used += need
    plan = build_plan(tables, [s for s, _ in rows], [c for _, c in rows], BLOCK)
    total = len(plan.positions)
    new = [torch.randn(n, total, WIDTH, generator=random) for n in (HEADS, KV_HEADS, KV_HEADS)]
    return plan, arena_with(plan, random), new


def rms(x: torch.Tensor) -> float:
    """Root mean square."""
    return float(x.pow(2).mean().sqrt())


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    rows=st.lists(st.tuples(st.integers(0, 60), st.sampled_from([1, 1, 3, 20])), min_size=1, max_size=4),
    shared=st.integers(0, 3),
    window=st.sampled_from([None, 20, 1000]),
    softcap=st.sampled_from([None, 3.0]),
    sinks=st.booleans(),
)
def test_equals_the_cpu_backend(
    seed: int,
    rows: list[tuple[int, int]],
    shared: int,
    window: int | None,
    softcap: float | None,
    sinks: bool,
) -> None:
    """On random plans both backends write the same arena, and Triton's error is at most twice the CPU's."""
    plan, arena, (query, key, value) = step(seed, rows, shared)
    extra = {"window": window, "softcap": softcap, "sinks": torch.tensor([0.0, 1.0, -2.0, 3.0]) if sinks else None}
    device_extra = extra | {"sinks": extra["sinks"].to(DEVICE) if sinks else None}  # type: ignore[attr-defined]
    triton, cpu = TritonAttention(arena.clone().to(DEVICE), HEADS), CpuAttention(arena.clone())

    triton.write_kv(1, key.to(DEVICE), value.to(DEVICE), plan)
    cpu.write_kv(1, key, value, plan)
    got = triton.attend(1, query.to(DEVICE), plan, scale=0.25, **device_extra).cpu()  # type: ignore[arg-type]
    other = cpu.attend(1, query, plan, scale=0.25, **extra)  # type: ignore[arg-type]

    torch.testing.assert_close(triton.arena.cpu(), cpu.arena, rtol=0, atol=0, equal_nan=True)
    exact = paged_attention_ref(
        query,
        *cpu.arena[1],
        [t.tolist() for t in plan.tables],
        plan.starts.tolist(),
        plan.counts.tolist(),
        Features(0.25, **extra),  # type: ignore[arg-type]
        torch.float64,
    )
    floor = torch.finfo(torch.float32).eps * rms(exact)  # one rounding: a lone key is exact on the CPU
    assert rms(got - exact) <= max(2 * rms(other - exact), floor)


def test_captured_steps_give_the_same_results() -> None:
    """Plans loaded into static buffers, one after another and with padded rows, give what buffers of their own do."""
    static = None
    for seed, rows in ((1, [(30, 1), (45, 1), (61, 1)]), (2, [(17, 1), (33, 1)])):
        plan, arena, (query, key, value) = step(seed, rows, 1)
        backend = TritonAttention(arena.to(DEVICE), HEADS)
        backend.write_kv(0, key.to(DEVICE), value.to(DEVICE), plan)
        alone = [backend.attend(0, query.to(DEVICE), plan, scale=0.25, window=w) for w in (None, 20)]
        static = static or backend.static_step((None, 20), rows=4, table=32)
        plan.prepared.clear()
        backend.load(plan, static)
        padded = [torch.cat([x, torch.full((len(x), 4 - len(rows), WIDTH), torch.nan)], 1) for x in (query, key, value)]
        query, key, value = (x.to(DEVICE) for x in padded)
        before = backend.arena.clone()

        backend.write_kv(0, key, value, plan)
        together = [backend.attend(0, query, plan, scale=0.25, window=w) for w in (None, 20)]

        torch.testing.assert_close(backend.arena, before, rtol=0, atol=0, equal_nan=True)
        for one, both in zip(alone, together, strict=True):
            assert torch.equal(both[: len(rows)], one)
            assert not both[len(rows) :].any()


def test_copies_that_depend_on_each_other_run_in_order() -> None:
    """A block that was just written may be copied on; independent rows share a launch; blocks can be scrubbed."""
    arena = torch.arange(6.0)[:, None, None].expand(1, 2, 1, 6, 16, 16).contiguous().to(DEVICE)
    backend = TritonAttention(arena, heads=1)
    copies = [(0, 1, 16), (2, 3, 16), (1, 4, 3)]

    backend.copy_blocks(copies)
    backend.copy_blocks([(-1, 5, 16)])

    assert [len(wave) for wave in _waves(copies)] == [2, 1]
    assert backend.arena[0, 1, 0, :, 2, 0].tolist() == [0, 0, 2, 2, 0, 0]
    assert backend.arena[0, 1, 0, 4, 3:].eq(4).all()


def test_refuses_heads_that_do_not_divide() -> None:
    """Query heads must be a multiple of the KV heads."""
    with pytest.raises(ValueError, match="3 query heads are no multiple of 2"):
        TritonAttention(torch.zeros(1, 2, 2, 2, 16, 16, device=DEVICE), heads=3)
