"""Attention kernels against exact arithmetic, by shape of the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.kernels.batch import assert_no_worse, device_work, make_batch, run

BATCHES = {
    "one token": ([0], [1]),
    "decode at block edges": ([15, 16, 17, 31], [1, 1, 1, 1]),
    "odd lengths": ([2, 40, 7, 99], [1, 1, 1, 1]),
    "verify": ([30, 13], [5, 8]),
    "prefill from nothing": ([0, 0], [21, 47]),
    "extend": ([37], [33]),
    "mixed": ([50, 0, 3, 22], [1, 19, 6, 1]),
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_regime_is_as_exact_as_pytorch(name: str, dtype: torch.dtype) -> None:
    """Decode, verify, prefill and mixed batches over scattered blocks, unwritten slots poisoned."""
    batch = make_batch(*BATCHES[name], dtype=dtype)

    assert_no_worse(batch, run(batch, device_work(batch)))


@pytest.mark.parametrize("width", [48, 64, 80, 96, 128, 256])
def test_every_head_dim(width: int) -> None:
    """Widths that are no power of two are padded, and the padding is neither read nor written."""
    batch = make_batch([20, 5], [1, 9], width=width, kv_heads=1, heads=2)

    assert_no_worse(batch, run(batch, device_work(batch)))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1), (6, 2), (5, 1), (16, 1), (24, 1)])
def test_every_ratio_of_heads(heads: int, kv_heads: int) -> None:
    """MHA, GQA and MQA, ratios that do not divide the tile included."""
    batch = make_batch([33, 2], [1, 5], heads=heads, kv_heads=kv_heads, width=48)
    block_m = 32 if heads == 24 else 16

    assert_no_worse(batch, run(batch, device_work(batch, block_m=block_m), block_m=block_m))


@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("block_n", [16, 32, 64])
def test_tiles_need_not_match_blocks(block_size: int, block_n: int) -> None:
    """Kernel steps smaller, equal to and larger than a block."""
    batch = make_batch([70, 1], [1, 3], block_size=block_size, width=48, kv_heads=1, heads=2)

    assert_no_worse(batch, run(batch, device_work(batch), block_n=block_n))


def test_splits_and_groups_change_nothing_but_rounding() -> None:
    """One run, many runs and shared prefixes as groups: the same attention, each as exact as PyTorch."""
    batch = make_batch([200, 180, 161], [1, 1, 4], shared=10, dtype=torch.float32, kv_heads=1, heads=2)
    works = {
        "whole": device_work(batch, group=False, fixed_run=1024),
        "split": device_work(batch, group=False, fixed_run=64),
        "grouped": device_work(batch, group=True, fixed_run=1024),
        "grouped and split": device_work(batch, group=True, fixed_run=64),
    }

    for name, work in works.items():
        assert (work.used.merge_places == 0) == (name == "whole")
        assert (work.used.group == 0) == ("grouped" not in name)
        assert_no_worse(batch, run(batch, work))


def test_a_group_larger_than_a_tile() -> None:
    """A shared run whose rows fill several tiles, prefill chunks among them."""
    batch = make_batch([48] * 5 + [50], [1] * 5 + [11], shared=3, width=48)

    work = device_work(batch)

    assert work.used.group > 1
    assert_no_worse(batch, run(batch, work))


def test_padded_rows_are_untouched() -> None:
    """Rows beyond the step's, as a captured graph has them, keep what they hold."""
    batch = make_batch([20, 9], [1, 1], shared=0)
    work = device_work(batch)
    wide = make_batch([20, 9], [1, 1])
    wide.query = torch.cat([batch.query, torch.full_like(batch.query, torch.nan)], 1)

    out = run(wide, work, fill=123.0)

    assert_no_worse(batch, out[:2])
    assert bool((out[2:] == 123.0).all())


def test_foreign_blocks_change_nothing() -> None:
    """Whatever blocks of other sequences hold, NaN included, the result is the same to the bit."""
    batch = make_batch([37, 60], [1, 1], dtype=torch.float32)
    before = run(batch, device_work(batch, fixed_run=64))
    for plane in (batch.keys, batch.values):
        plane[:, batch.tables[1].tolist()] = torch.nan
    alone = replace(batch, query=batch.query[:, :1], tables=batch.tables[:1], starts=[37], counts=[1])

    after = run(alone, device_work(alone, fixed_run=64))

    assert torch.equal(before[:1], after)
