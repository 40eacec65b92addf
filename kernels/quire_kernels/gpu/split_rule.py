"""The split rule: into how many runs the keys of each tile are cut.

A GPU is busy only if there are at least as many programs as it has places for them, and it finishes early only if its
places end at about the same time. Programs are dealt out as places become free, the longest run first. The rule deals
out whole tiles, then runs of about the keys that one place has to read, of half of them, and so on (``PARTS``), and
takes the cut after which the last place ends soonest; it stops at the first that is good enough. Long sequences are cut
and short ones are not, few sequences are cut finely and many are not cut at all.

Every split costs a start, which other programs of a multiprocessor hide in part, and a partial result that has to be
written, read and merged: ``START_COST`` keys, an estimate; and no run is made shorter than ``MIN_RUN`` keys. With
``fixed_run`` the runs do not depend on what else is in the batch: results are then the same, bit for bit, in every
batch.
"""

from __future__ import annotations

from heapq import heapreplace

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

MIN_RUN = 128  # keys
ALIGN = 32  # runs are whole multiples of this many keys: few kernel steps then need a mask
PARTS = (0.75, 1, 1.5, 2, 3, 4, 6)  # into which a place's keys are cut, the coarsest first
START_COST = 16  # what a program costs beside its keys, in keys
ENOUGH = 1.05  # times the mean: if the last place ends by then, no finer cut is tried


def split_lengths(kv_len: IntArray, kv_heads: int, places: int, fixed_run: int | None = None) -> IntArray:
    """Keys in each run of each tile (its last run may be shorter); equal to or above ``kv_len`` if it is not cut.

    Args:
        kv_len: [tiles] keys of each tile of one launch, at least 1 each.
        kv_heads: programs per tile.
        places: programs that the GPU runs at a time.
        fixed_run: cut every tile into runs of this many keys instead.
    """
    if fixed_run is not None:
        return np.full_like(kv_len, max(ALIGN, _round_up(np.int64(fixed_run))))
    bundles = max(1, places // kv_heads)  # the programs of all heads for one run begin and end together
    mean = float(kv_len.sum()) / bundles
    cuts = np.maximum(np.ceil(mean / np.array(PARTS)).astype(np.int64), MIN_RUN)
    best, soonest = _round_up(kv_len), last_end(kv_len, kv_len, bundles)
    for cut in np.unique(_round_up(cuts[cuts < kv_len.max()]))[::-1]:
        if soonest <= ENOUGH * (mean + START_COST):
            break
        length = _round_up(-(-kv_len // -(-kv_len // cut)))
        end = last_end(kv_len, length, bundles)
        if end < soonest:
            best, soonest = length, end
    return best


def most_cuts(kv_heads: int, places: int) -> int:
    """Bound of the runs of one launch beyond one a tile, whatever its tiles: see ``split_lengths``."""
    return -(-PARTS[-1] * places // kv_heads)


def last_end(kv_len: IntArray, length: IntArray, places: int) -> int:
    """When the last place ends, in keys, if tiles of ``kv_len`` keys are cut into runs of ``length``."""
    runs = -(-kv_len // length)
    keys = np.repeat(np.minimum(length, kv_len), runs)
    keys[np.cumsum(runs) - 1] = kv_len - (runs - 1) * length
    free = [0] * places
    for run in (np.sort(keys)[::-1] + START_COST).tolist():
        heapreplace(free, free[0] + run)
    return max(free)


def _round_up(length: IntArray | np.int64) -> IntArray:
    """To a multiple of ALIGN."""
    return np.asarray(-(-length // ALIGN) * ALIGN)
