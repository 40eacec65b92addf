"""Paged attention on a CPU against attention written down densely."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
import torch

from quire_engine.attention.backend import AttentionBackend
from quire_engine.attention.cpu import compiled
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.cpu.pytorch import Partials, merge
from quire_engine.attention.plan import build_plan
from quire_engine.attention.triton import TritonAttention
from tests.support.dense_attention import Batch, DenseAttention, poisoned_arena, random_batch
from tests.support.host_library import need_host_library

# (shared blocks, tokens before the step, query tokens): decodes, chunks, a first chunk, a single token.
MIXED = [
    (4, 3, 1),
    (4, 0, 1),
    (4, 17, 1),
    (4, 5, 30),
    (2, 9, 1),
    (2, 1, 7),
    (0, 0, 41),
    (0, 300, 1),
    (0, 0, 1),
    (0, 70, 9),
]


def mixed(
    seed: int, block_size: int = 16, rows: list[tuple[int, int, int]] = MIXED
) -> tuple[np.random.Generator, Batch]:
    draw = np.random.default_rng(seed)
    return draw, random_batch(
        draw, block_size=block_size, shared=[n for n, _, _ in rows], private=[(p, c) for _, p, c in rows]
    )


def run(draw, batch, *, heads, kv_heads, width, group=True, dtype=torch.float32, layers=2, **options):
    """Write the step's K and V and attend in the last layer; (paged, dense) outputs."""
    plan = build_plan(batch.tables, batch.starts, batch.counts, batch.block_size, group=group)
    total = len(plan.positions)
    arena = poisoned_arena(draw, batch, layers, kv_heads, width).to(dtype)
    query, key, value = (
        torch.from_numpy(draw.standard_normal((n, total, width), dtype=np.float32)).to(dtype)
        for n in (heads, kv_heads, kv_heads)
    )
    attention = CpuAttention(arena)
    attention.write_kv(layers - 1, key, value, plan)
    paged, dense = (
        backend.attend(layers - 1, query, plan, scale=width**-0.5, **options)
        for backend in (attention, DenseAttention(arena))
    )
    return paged, dense


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (5, 1)], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("width", [48, 64, 80, 96, 128])
def test_heads_and_head_sizes(heads, kv_heads, width):
    """A mixed batch over NaN-poisoned slots equals dense attention for each head arrangement and size."""
    paged, dense = run(*mixed(width + heads), heads=heads, kv_heads=kv_heads, width=width)

    torch.testing.assert_close(paged, dense, rtol=1e-4, atol=1e-5)


OPTIONS = list(itertools.product([None, 1, 5, 32, 150], [None, 3.0], [False, True]))


@pytest.mark.parametrize(("window", "softcap", "with_sinks"), OPTIONS)
def test_window_softcap_and_sinks(window, softcap, with_sinks):
    """Sliding window, soft-cap and sinks equal dense attention, alone and together."""
    sinks = torch.tensor([0.5, -1.0, 2.0, 40.0]) if with_sinks else None
    paged, dense = run(*mixed(3), heads=4, kv_heads=2, width=32, window=window, softcap=softcap, sinks=sinks)

    torch.testing.assert_close(paged, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 40])
def test_grouping_changes_nothing(window):
    """Grouped and ungrouped plans give the same attention."""
    grouped, dense = run(*mixed(5), heads=4, kv_heads=2, width=32, window=window, group=True)
    ungrouped, _ = run(*mixed(5), heads=4, kv_heads=2, width=32, window=window, group=False)

    torch.testing.assert_close(grouped, ungrouped, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ungrouped, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_random_batches(seed):
    """Random tables, odd lengths and block sizes equal dense attention."""
    draw = np.random.default_rng(100 + seed)
    rows = [
        (int(draw.integers(0, 5)), int(draw.integers(0, 60)), int(draw.choice([1, 1, 1, draw.integers(1, 200)])))
        for _ in range(draw.integers(1, 9))
    ]
    window = int(draw.integers(1, 120)) if seed % 3 == 0 else None
    batch = mixed(seed, int(draw.choice([1, 5, 16, 64])), rows)
    paged, dense = run(*batch, heads=4, kv_heads=2, width=16, window=window)

    torch.testing.assert_close(paged, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_decodes_of_similar_length_in_any_order(order):
    """Decodes that are batched by length keep their own rows, in whatever order the lengths come."""
    rows = [(0, (57, 81, 82, 70)[i], 1) for i in order]
    paged, dense = run(*mixed(7, 16, rows), heads=4, kv_heads=2, width=16)

    torch.testing.assert_close(paged, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "softcap", "with_sinks"), OPTIONS)
def test_bfloat16_is_no_worse_than_torch(window, softcap, with_sinks):
    """In bfloat16 the error is that of rounding inputs and output, not more, whatever is asked of attention."""
    sinks = torch.tensor([0.5, -1.0, 2.0, 40.0]) if with_sinks else None
    how = {"window": window, "softcap": softcap, "sinks": sinks}
    paged, dense = run(*mixed(9), heads=4, kv_heads=2, width=64, dtype=torch.bfloat16, **how)
    rounding = (dense.bfloat16().float() - dense).abs().max()

    assert paged.dtype == torch.bfloat16
    assert (paged.float() - dense).abs().max() <= 4 * rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_share_what_is_derived_and_nothing_else(dtype, monkeypatch):
    """Calls are made by the first layer of a step; each layer reads its own keys, values and sinks, and keeps its
    result while others are computed."""
    need_host_library()
    draw, batch = mixed(17)
    plan = build_plan(batch.tables, batch.starts, batch.counts, batch.block_size)
    arena = poisoned_arena(draw, batch, 3, 2, 32).to(dtype)
    attention, dense, made = CpuAttention(arena), DenseAttention(arena), []
    for owner, name in ((compiled, "decode_call"), (compiled, "tiles_call"), (compiled.WriteCall, "__init__")):
        right = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *all, right=right, name=name: (made.append(name), right(*all))[1])
    query, key, value = (torch.randn(n, len(plan.positions), 32).to(dtype) for n in (4, 2, 2))
    sinks = [None, torch.full((4,), 3.0), torch.arange(4.0)]
    found, counts = [], []
    for layer in range(3):
        attention.write_kv(layer, key, value * (layer + 1), plan)
        found.append(attention.attend(layer, query * (layer + 1), plan, scale=0.2, sinks=sinks[layer]))
        counts.append(len(made))
    assert set(made) == {"decode_call", "tiles_call", "__init__"}
    assert counts == [len(made)] * 3
    for layer, got in enumerate(found):
        expected = dense.attend(layer, query * (layer + 1), plan, scale=0.2, sinks=sinks[layer])
        torch.testing.assert_close(got.float(), expected.float(), rtol=2e-2, atol=3e-2)


def test_foreign_blocks_are_neither_read_nor_written():
    """A step leaves every slot but its own as it was, and its result ignores them."""
    draw, batch = mixed(11)
    plan = build_plan(batch.tables, batch.starts, batch.counts, batch.block_size)
    arena = poisoned_arena(draw, batch, 1, 2, 16)
    before = arena.clone()
    key = torch.randn(2, len(plan.positions), 16, generator=torch.Generator().manual_seed(0))
    CpuAttention(arena).write_kv(0, key, -key, plan)
    changed = (
        (arena.view(2, 2, -1, 16).nan_to_num(9e9) != before.view(2, 2, -1, 16).nan_to_num(9e9)).any(-1).any(0).any(0)
    )

    assert sorted(plan.slots.tolist()) == torch.nonzero(changed).squeeze(1).tolist()
    torch.testing.assert_close(arena.view(2, 2, -1, 16)[0][:, torch.from_numpy(plan.slots)], key)


def test_a_wrong_block_is_noticed():
    """The comparison can fail: a table that names one other block gives another result in that row alone."""
    draw, batch = mixed(13)
    arena = poisoned_arena(draw, batch, 1, 1, 16).nan_to_num(0.5)
    query = torch.from_numpy(draw.standard_normal((2, sum(batch.counts), 16), dtype=np.float32))
    right = build_plan(batch.tables, batch.starts, batch.counts, batch.block_size)
    dense = DenseAttention(arena).attend(0, query, right, scale=0.25)
    row = sum(batch.counts[:7])  # the decode over 300 private tokens
    batch.tables[7] = batch.tables[7].copy()
    batch.tables[7][3] = batch.tables[9][1]
    plan = build_plan(batch.tables, batch.starts, batch.counts, batch.block_size)
    wrong = (CpuAttention(arena).attend(0, query, plan, scale=0.25) - dense).abs().amax((1, 2)) > 1e-3

    assert torch.nonzero(wrong).flatten().tolist() == [row]


def test_an_empty_result_is_zero_not_nan():
    """Merging only empty partial results gives zero; an empty one beside another changes nothing."""
    out = torch.tensor([[1.0, 2.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    lse = torch.tensor([3.0, -torch.inf]).view(1, 2, 1)
    merged = merge(Partials(out, lse), torch.tensor([[0, 1], [1, 1], [1, 0]]), None)

    assert merged.squeeze(1).tolist() == [[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]]


@pytest.mark.parametrize("method", ["write_kv", "attend", "copy_blocks"])
@pytest.mark.parametrize("backend", [CpuAttention, TritonAttention, DenseAttention])
def test_backends_have_one_signature(backend, method):
    """Every backend takes the arguments that the protocol names, in its order and with its defaults."""
    expected = inspect.signature(getattr(AttentionBackend, method))
    assert inspect.signature(getattr(backend, method)) == expected
