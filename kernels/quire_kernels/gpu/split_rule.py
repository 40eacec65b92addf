"""The split rule: into how many runs the keys of each tile are cut.

A GPU is busy only if there are at least as many programs as it has places for them, and it finishes early only if
they take about as long. One rule serves both: all keys that have to be read, over all tiles and KV heads, are
divided by the number of places; each tile is cut into as many runs as that share goes into it. Long sequences are
cut and short ones are not, few sequences are cut finely and many are not cut at all.

Every split costs a partial result that has to be written, read and merged, so no run is made shorter than
``MIN_RUN`` keys. With ``fixed_run`` the runs do not depend on what else is in the batch: results are then the same,
bit for bit, in every batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

PROGRAMS_PER_SM = 2  # programs of a decode kernel that one multiprocessor holds at a time
MIN_RUN = 256  # keys
ALIGN = 64  # runs are whole multiples of this many keys: most kernel steps then need no mask


def split_lengths(
    kv_len: IntArray, kv_heads: int, sm_count: int, fixed_run: int | None = None, min_run: int = MIN_RUN
) -> IntArray:
    """Keys in each run of each tile (its last run may be shorter); equal to or above ``kv_len`` if it is not cut.

    Args:
        kv_len: [tiles] keys of each tile of one launch, at least 1 each.
        kv_heads: programs per tile.
        sm_count: multiprocessors of the GPU.
        fixed_run: cut every tile into runs of this many keys instead.
    """
    if fixed_run is not None:
        return np.full_like(kv_len, max(ALIGN, _round_up(np.int64(fixed_run))))
    share = float(kv_len.sum()) * kv_heads / (PROGRAMS_PER_SM * sm_count)
    # To the nearest: cutting a tile that is a little longer than its share in two would cost more than it levels.
    splits = np.floor(kv_len / max(share, float(min_run)) + 0.5).astype(np.int64)
    return _round_up(-(-kv_len // np.maximum(splits, 1)))


def _round_up(length: IntArray | np.int64) -> IntArray:
    """To a multiple of ALIGN."""
    return np.asarray(-(-length // ALIGN) * ALIGN)
