"""Attention kernels against exact arithmetic, by what models ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.kernels.batch import DEVICE, Batch, assert_no_worse, device_work, make_batch, run

STARTS, COUNTS = [90, 33, 0, 61], [1, 4, 37, 20]


def both_ways(batch: Batch) -> None:
    """Hold the batch to the error rule in one run a tile, and split and grouped."""
    assert_no_worse(batch, run(batch, device_work(batch, group=False, fixed_run=1024)))
    assert_no_worse(batch, run(batch, device_work(batch, fixed_run=64)))


@pytest.mark.parametrize("window", [1, 16, 23, 50])
def test_sliding_window(window: int) -> None:
    """Rows see the last ``window`` keys, whether the window ends inside a block or at its edge."""
    both_ways(make_batch(STARTS, COUNTS, window=window, width=48, kv_heads=1, heads=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_softcap(dtype: torch.dtype) -> None:
    """Soft-capped scores, as exact near 0 as PyTorch's tanh."""
    both_ways(make_batch([90, 8], [1, 20], softcap=5.0, dtype=dtype, kv_heads=1, heads=2))


def test_softcap_of_huge_scores_is_finite() -> None:
    """Scores of 10,000 times the cap saturate instead of overflowing."""
    batch = make_batch([90, 8], [1, 20], softcap=2.0, scale=3e4, dtype=torch.float32, kv_heads=1, heads=2)

    both_ways(batch)


@pytest.mark.parametrize("sink", [-4.0, 3.0, 200.0])
def test_sinks(sink: float) -> None:
    """A sink joins each softmax exactly once, in direct results and in merged ones, and may dwarf all scores."""
    batch = make_batch([90, 8, 70], [1, 20, 1], shared=0, kv_heads=1, heads=2)
    sinks = torch.tensor([sink, 0.5], device=DEVICE)

    both_ways(replace_features(batch, sinks=sinks))


def test_alibi() -> None:
    """Scores fall with distance by each head's slope, in groups as well."""
    batch = make_batch([90, 70, 66], [1, 20, 3], shared=4, heads=4)

    both_ways(replace_features(batch, slopes=torch.tensor([0.5, 0.25, 0.125, 0.0625], device=DEVICE)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_e4m3_keys_and_values(dtype: torch.dtype) -> None:
    """Keys and values in e4m3 with a scale for each head, NaN in unwritten slots: exact but for the rounding that
    storing cost."""
    batch = make_batch([90, 70, 66], [1, 20, 3], shared=4, dtype=dtype)
    batch.keys, batch.values = batch.keys.to(torch.float8_e4m3fn), batch.values.to(torch.float8_e4m3fn)
    assert batch.keys.float().isnan().any()
    scales = torch.tensor([0.5, 1.75], device=DEVICE)

    both_ways(replace_features(batch, k_scale=scales, v_scale=scales.flip(0).contiguous()))


def test_everything_at_once() -> None:
    """Window, soft-cap, sinks and ALiBi together."""
    batch = make_batch(STARTS, COUNTS, window=40, softcap=8.0, width=80, kv_heads=1, heads=3)

    both_ways(
        replace_features(
            batch,
            sinks=torch.tensor([0.1, 1.0, -1.0], device=DEVICE),
            slopes=torch.tensor([0.1, 0.05, 0.02], device=DEVICE),
        )
    )


def test_what_does_not_fit_is_named() -> None:
    """Tensors that do not belong to the step are refused with their names."""
    batch = make_batch([20], [1])
    work = device_work(batch)
    wrong = {
        r"^sinks has shape \(3,\), expected \(4,\)": {"features": replace(batch.features, sinks=torch.zeros(3))},
        r"^k_scale is given": {"features": replace(batch.features, k_scale=torch.ones(2))},
        r"^query has dtype torch.float32, the arena holds torch.float16": {"query": batch.query.float()},
        r"^3 query heads are no multiple of 2": {"query": batch.query[:3]},
        r"^query has 0 rows, the step 1": {"query": batch.query[:, :0]},
        r"^keys have strides": {"keys": batch.keys.transpose(0, 1).contiguous().transpose(0, 1)},
        r"^the tiles are cut for a window of 5, not 3": {"features": replace(batch.features, window=3)},
    }
    windowed = device_work(replace(batch, features=replace(batch.features, window=5)))
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=message):
            run(replace(batch, **change), windowed if "cut" in message else work)


def replace_features(batch: Batch, **features: object) -> Batch:
    """The batch with further features."""
    batch.features = replace(batch.features, **features)  # type: ignore[arg-type]
    return batch
