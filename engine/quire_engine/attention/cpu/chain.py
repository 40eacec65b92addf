"""From a plan to the compiled kernels' calls: what the CPU backend derives once a step and then uses in every layer.

A row sees its keys in one chain, in ascending order: first those of the prefixes that its sequence shares with
others, group inside group, each read once for all rows of its members; then all others up to itself, in one item.
What a call has made of the row so far is its state, from which the next one goes on. So a row's result depends on its
query and keys alone, bit by bit: not on who shares how much with it, on chunks, or on whether it came as a decode, a
draft or a prompt's token.

Invariants: a state is left and taken up at multiples of ``KEYS`` only, so a group that ends elsewhere ends earlier; a
row has at most one item in a call; the last call that a row is in closes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
import torch

from quire_engine.attention.groups import IntArray, PrefixGroup
from quire_engine.attention.plan import AttentionPlan, ranges
from quire_kernels.cpu.call import KEYS
from quire_kernels.cpu.decode import RowItems
from quire_kernels.cpu.tiles import TileItems


@dataclass(frozen=True, slots=True)
class Chain:
    """All calls of a step for one window, in their order.

    Attributes:
        shared: of each depth of groups, the outermost first, the rows of all members over what they share.
        chunks: the rows of sequences with several query tokens, over all other keys; None if there are none.
        singles: those of the sequences with one.
    """

    shared: list[TileItems]
    chunks: TileItems | None
    singles: RowItems | None


def chain(plan: AttentionPlan, window: int | None) -> Chain:
    """The calls for layers with this sliding window, or None."""
    covered = np.zeros(len(plan.starts), dtype=np.int64)  # tokens of each sequence that shared prefixes cover
    depth = np.zeros(len(plan.starts), dtype=np.int64)
    levels: list[list[PrefixGroup]] = []
    unit = KEYS // gcd(KEYS, plan.block_size)  # blocks
    for found in plan.groups(window):
        first, last = found.first // unit * unit, found.last // unit * unit
        if first == last:
            continue
        level = int(depth[found.members[0]])
        depth[found.members] += 1
        covered[found.members] = last * plan.block_size
        levels += [[]] if level == len(levels) else []
        levels[level].append(PrefixGroup(found.members, first, last))
    single = plan.counts == 1
    low = covered if window is None else np.maximum(covered, plan.starts - window + 1)
    chunks, singles = np.flatnonzero(~single), np.flatnonzero(single)
    return Chain(
        [_shared(plan, groups) for groups in levels],
        _chunks(plan, chunks, low[chunks], covered[chunks], window or 0) if len(chunks) else None,
        _singles(plan, singles, low[singles], covered[singles]) if len(singles) else None,
    )


def _shared(plan: AttentionPlan, groups: list[PrefixGroup]) -> TileItems:
    """An item a group, read through the table of its first member."""
    rows = [ranges(plan.row_start[g.members], plan.counts[g.members]) for g in groups]
    first, last = (np.array([getattr(g, end) for g in groups]) for end in ("first", "last"))
    return _tiles(
        plan,
        rows=np.concatenate(rows),
        count=np.array([len(one) for one in rows]),
        table_start=plan.table_ptr[[g.members[0] for g in groups]] + first,
        start=first * plan.block_size,
        end=last * plan.block_size,
        resumes=first > 0,
    )


def _chunks(plan: AttentionPlan, members: IntArray, low: IntArray, covered: IntArray, window: int) -> TileItems:
    """An item a sequence, from ``low`` on."""
    count = plan.counts[members]
    return _tiles(
        plan,
        rows=ranges(plan.row_start[members], count),
        count=count,
        table_start=plan.table_ptr[members] + low // plan.block_size,
        start=low,
        end=plan.starts[members] + count,
        resumes=covered > 0,
        last=True,
        window=window,
    )


def _singles(plan: AttentionPlan, members: IntArray, low: IntArray, covered: IntArray) -> RowItems:
    arrays = (
        plan.row_start[members],
        plan.table_ptr[members] + low // plan.block_size,
        low,
        plan.starts[members] + 1 - low,
        covered > 0,
        plan.table,
    )
    return RowItems(*map(_int64, arrays))


def _tiles(
    plan: AttentionPlan,
    rows: IntArray,
    count: IntArray,
    table_start: IntArray,
    start: IntArray,
    end: IntArray,
    resumes: np.ndarray,
    last: bool = False,
    window: int = 0,
) -> TileItems:
    """Items of ``count`` rows each over keys ``start .. end``; the ``last`` of their rows are causal and close them."""
    row_ptr = np.concatenate([[0], np.cumsum(count)])
    causal = np.full(len(count), last)
    arrays = (rows, row_ptr, table_start, start, end - start, causal, resumes, plan.table, plan.positions)
    return TileItems(window, last, *map(_int64, arrays))


def _int64(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
