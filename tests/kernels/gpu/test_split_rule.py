"""The split rule: the places of a GPU end at about the same time, whatever the batch."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from quire_kernels.gpu.split_rule import ALIGN, MIN_RUN, IntArray, most_cuts, split_lengths

KV_HEADS = 8
H200 = 132  # multiprocessors
BATCHES = (*range(1, 41), *range(42, 257, 9), 256)


def balance(kv_len: IntArray, places: int) -> float:
    """Share of the time until the last place ends in which places read keys, if each takes the next program."""
    length = split_lengths(kv_len, KV_HEADS, places)
    runs = [min(cut, keys - first) for keys, cut in zip(kv_len, length, strict=True) for first in range(0, keys, cut)]
    free = [0] * places
    for run in sorted(runs, reverse=True):
        for _ in range(KV_HEADS):
            heapq.heapreplace(free, free[0] + int(run))
    return float(kv_len.sum() * KV_HEADS / places / max(free))


@pytest.mark.parametrize(("per_sm", "least"), [(2, MIN_RUN), (4, 4 * MIN_RUN)])
def test_decode_steps_are_balanced(per_sm: int, least: int) -> None:
    """Batches of 1 to 256 sequences, equal and random lengths: 0.8 of the time of an H200's places goes into keys.

    A batch counts if there are ``least`` keys for every place; below, there is nothing to level.
    """
    places, random = per_sm * H200, np.random.default_rng(7)
    found = {}
    for batch in BATCHES:
        steps = {f"{batch} x {keys}": np.full(batch, keys) for keys in (1024, 4096, 32768)}
        steps |= {f"{batch} random {i}": random.integers(200, 8001, batch) for i in range(2)}
        found |= {
            name: balance(step, places) for name, step in steps.items() if step.sum() * KV_HEADS >= places * least
        }

    assert len(found) > 4 * len(BATCHES)
    assert min(found.values()) >= 0.8, min(found.items(), key=lambda pair: pair[1])


def test_one_sequence_fills_the_gpu() -> None:
    """A single sequence of 4,096 tokens is cut finely enough for all places of an H200."""
    assert balance(np.full(1, 4096), 2 * H200) >= 0.8


def test_runs_are_long_aligned_and_few() -> None:
    """Runs are multiples of ALIGN and not below the least, full GPUs cut nothing, and no launch cuts too often."""
    random = np.random.default_rng(5)
    assert split_lengths(np.full(33, 4096), KV_HEADS, 264).tolist() == [4096] * 33
    assert split_lengths(np.array([MIN_RUN]), 1, 264)[0] >= MIN_RUN
    uneven = split_lengths(np.array([100_000] + [200] * 40), KV_HEADS, 264)
    assert 100_000 / uneven[0] > 20
    assert (uneven[1:] >= 200).all()
    for batch in (1, 3, 17, 90):
        kv_len = random.integers(1, 9001, batch)
        length = split_lengths(kv_len, KV_HEADS, 264)
        assert (length % ALIGN == 0).all()
        assert (length >= np.minimum(kv_len, MIN_RUN / 2)).all()
        assert (-(-kv_len // length)).sum() <= batch + most_cuts(KV_HEADS, 264)


def test_fixed_runs_do_not_depend_on_the_batch() -> None:
    """In deterministic mode a tile is cut the same alone and in company."""
    alone = split_lengths(np.array([5000]), KV_HEADS, 264, fixed_run=1024)
    company = split_lengths(np.array([5000] * 300), KV_HEADS, 264, fixed_run=1024)

    assert alone[0] == company[0] == 1024
