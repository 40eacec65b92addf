"""From work items to PyTorch's calls: what the CPU backend derives once a step where the compiled kernels do not serve.

Owns the choice of how each item is read:

- *view*: an item whose physical blocks follow each other reads keys and values in place, without a copy;
- *gather*: a fragmented item reads a copy, made through an index of slots;
- *batch*: many single-row items (the private parts of decodes) are gathered side by side, padded to their longest,
  and done in one call; lengths within one batch differ by less than a half, so little is computed in vain.

Padding repeats the item's last slot, never a slot beyond the fill: unwritten memory may hold NaN, and NaN times a
masked zero is still NaN.

Every (row, item) pair yields one partial result. Calls write theirs to consecutive places, and ``merge_index`` says
which places belong to each row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from quire_engine.attention.groups import IntArray
from quire_engine.attention.plan import AttentionPlan, WorkItems, ranges

LONG = 256  # tokens from which a contiguous single-row item is worth a call of its own instead of a copy
SPREAD = 1.5  # longest over shortest item of one batch
BATCH_TOKENS = 2048  # tokens gathered for one batch: the copies should still be in the processor's cache when read


@dataclass(frozen=True, slots=True)
class Call:
    """One attention call over one or more items.

    Attributes:
        place: partial results ``place .. place + partials`` are this call's.
        rows: [partials] query rows, int64; None if they are ``row_slice``.
        row_slice: consecutive query rows.
        slots: [items * width] slots to gather, int64; None if keys are the slots ``view``.
        view: first and last (exclusive) slot of a contiguous run.
        items: items side by side (1 unless a batch).
        causal: the rows are the very tokens the keys belong to.
        hidden: True where a key may not be seen: [items, 1, width] for a batch, [partials, width] for a tile that
            a sliding window cuts through; None if all keys are visible.
    """

    place: int
    partials: int
    rows: torch.Tensor | None
    row_slice: slice
    slots: torch.Tensor | None
    view: tuple[int, int]
    items: int
    causal: bool
    hidden: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Calls:
    """All calls of a step for one window.

    Attributes:
        partials: number of partial results.
        merge_index: [T, K] places of each row's partial results, filled up with ``partials`` (an empty result).
    """

    calls: list[Call]
    partials: int
    merge_index: torch.Tensor


def prepare(plan: AttentionPlan, window: int | None) -> Calls:
    """A call for each of ``plan.items(window)``, batches of single-row items apart."""
    items = plan.items(window)
    rows = np.diff(items.row_ptr)
    offset = items.kv_start % plan.block_size
    blocks = (offset + items.kv_len + plan.block_size - 1) // plan.block_size
    contiguous = _contiguous(plan, items, blocks)
    single = (rows == 1) & ~items.causal
    small = single & ~(contiguous & (items.kv_len >= LONG))
    order: list[IntArray] = []
    calls: list[Call] = []
    place = 0
    for members in [np.array([i]) for i in np.flatnonzero(~small)] + _batches(items, np.flatnonzero(small)):
        in_place = len(members) == 1 and bool(contiguous[members[0]])
        call = _call(plan, items, members, place, in_place)
        order.append(items.rows[ranges(items.row_ptr[members], rows[members])])
        calls.append(call)
        place += call.partials
    return Calls(calls, place, _merge_index(np.concatenate(order), len(plan.positions)))


def _contiguous(plan: AttentionPlan, items: WorkItems, blocks: IntArray) -> np.ndarray:
    """[items] whether an item's blocks follow each other in the arena."""
    breaks = np.concatenate([[0], np.cumsum(np.diff(plan.table) != 1)])
    return np.asarray(breaks[items.table_start] == breaks[items.table_start + blocks - 1])


def _batches(items: WorkItems, small: IntArray) -> list[IntArray]:
    """Single-row items in batches of similar length."""
    if not len(small):
        return []
    small = small[np.argsort(items.kv_len[small], kind="stable")]
    size_class = np.floor(np.log(items.kv_len[small]) / np.log(SPREAD))
    batches: list[IntArray] = []
    for members in np.split(small, np.flatnonzero(np.diff(size_class)) + 1):
        most = max(1, BATCH_TOKENS // int(items.kv_len[members[-1]]))
        batches += np.split(members, range(most, len(members), most))
    return batches


def _call(plan: AttentionPlan, items: WorkItems, members: IntArray, place: int, in_place: bool) -> Call:
    """The call for ``members``: one item of any shape, or several single-row items."""
    first = int(members[0])
    rows = items.rows[ranges(items.row_ptr[members], items.row_ptr[members + 1] - items.row_ptr[members])]
    consecutive = bool((np.diff(rows) == 1).all())  # not so in a batch, which is ordered by length
    slots = None
    view = (0, 0)
    if in_place:
        begin = (
            int(plan.table[items.table_start[first]]) * plan.block_size + int(items.kv_start[first]) % plan.block_size
        )
        view = (begin, begin + int(items.kv_len[first]))
    else:
        slots = torch.from_numpy(_slots(plan, items, members))
    own = bool(items.causal[first]) and int(items.kv_start[first]) == int(plan.positions[rows[0]])
    return Call(
        place=place,
        partials=len(rows),
        rows=None if consecutive else torch.from_numpy(rows),
        row_slice=slice(int(rows[0]), int(rows[0]) + len(rows)) if consecutive else slice(0),
        slots=slots,
        view=view,
        items=len(members),
        causal=own,
        hidden=_hidden(plan, items, members, rows, own),
    )


def _slots(plan: AttentionPlan, items: WorkItems, members: IntArray) -> IntArray:
    """[len(members) * width] slots of each item's keys, short items padded with their own last slot."""
    length = items.kv_len[members]
    step = np.minimum(np.arange(int(length.max())), length[:, None] - 1)
    token = items.kv_start[members, None] % plan.block_size + step
    block = plan.table[items.table_start[members, None] + token // plan.block_size]
    return np.asarray(block * plan.block_size + token % plan.block_size).reshape(-1)


def _hidden(plan: AttentionPlan, items: WorkItems, members: IntArray, rows: IntArray, own: bool) -> torch.Tensor | None:
    """Mask of a call, or None; see Call.hidden."""
    first = int(members[0])
    if len(members) > 1:
        length = items.kv_len[members]
        if length.min() == length.max():
            return None
        return torch.from_numpy(np.arange(int(length.max())) >= length[:, None])[:, None, :]
    if not items.causal[first]:
        return None
    window = items.window
    if own and (window is None or len(rows) <= window):
        return None
    key = items.kv_start[first] + np.arange(int(items.kv_len[first]))
    ahead = key - plan.positions[rows, None]
    hidden = ahead > 0
    return torch.from_numpy(hidden if window is None else hidden | (ahead <= -window))


def _merge_index(rows: IntArray, total_rows: int) -> torch.Tensor:
    """[total_rows, K] places of each row in ``rows``, filled up with ``len(rows)``."""
    count = np.bincount(rows, minlength=total_rows)
    order = np.argsort(rows, kind="stable")
    rank = ranges(np.zeros_like(count), count)
    index = np.full((total_rows, int(count.max())), len(rows))
    index[rows[order], rank] = order
    return torch.from_numpy(index)
