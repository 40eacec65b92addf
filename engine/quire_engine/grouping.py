"""Shared-prefix groups: which sequences of a step read the same leading blocks.

Owns the choice of groups, nothing else. A group is a set of sequences and a range of block-table indices at which
all their tables name the same physical blocks; attention reads those blocks once for all members. Groups nest: the
members of a group may split into smaller groups further down their tables, at most ``MAX_LEVELS`` deep, because
every level costs each of its rows one partial result to merge.

Invariants: only whole blocks below every member's ``start`` are grouped, so that every row of every member sees
all of them; groups at one level are disjoint; a group has at least two members and one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
MAX_LEVELS = 3


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences ``members`` (indices into the step) share table entries ``first`` to ``last`` (exclusive)."""

    members: IntArray
    first: int
    last: int


def find_groups(tables: list[npt.NDArray[np.int32]], limits: IntArray) -> list[Group]:
    """Groups over the first ``limits[i]`` entries of each table, outer groups before the groups inside them.

    A sequence with limit 0 joins no group.
    """
    candidates = np.flatnonzero(limits > 0)
    if len(candidates) < 2:
        return []
    entries = np.full((len(tables), int(limits.max())), -1, dtype=np.int32)
    for i in candidates:
        entries[i, : limits[i]] = tables[i][: limits[i]]
    groups: list[Group] = []
    _split(entries, limits, candidates, 0, 0, groups)
    return groups


def _split(
    entries: npt.NDArray[np.int32], limits: IntArray, members: IntArray, depth: int, level: int, groups: list[Group]
) -> None:
    """Append the groups among ``members``, whose tables agree below ``depth``, and recurse into each."""
    if level == MAX_LEVELS:
        return
    members = members[limits[members] > depth]
    if len(members) < 2:
        return
    heads, which = np.unique(entries[members, depth], return_inverse=True)
    sizes = np.bincount(which, minlength=len(heads))
    for head in np.flatnonzero(sizes > 1):
        rest = members[which == head]
        while len(rest) > 1:
            chosen, last = _best_group(entries, limits, rest, depth)
            groups.append(Group(rest[chosen], depth, last))
            _split(entries, limits, rest[chosen], last, level + 1, groups)
            rest = rest[~chosen]


def _best_group(
    entries: npt.NDArray[np.int32], limits: IntArray, members: IntArray, depth: int
) -> tuple[npt.NDArray[np.bool_], int]:
    """Which of ``members`` to group from ``depth`` on, and up to which table index.

    Taking the longest table as reference, a group that ends at index e keeps the members that agree with it up to
    there and saves (members - 1) * (e - depth) block reads: the end that saves most wins. Without this weighing,
    one sequence with a short common prefix would cut everybody's group short.
    """
    reference = members[np.argmax(limits[members])]
    same = entries[members, depth : limits[reference]] == entries[reference, depth : limits[reference]]
    agreed = np.where(same.all(axis=1), same.shape[1], np.argmin(same, axis=1))
    ends, at_end = np.unique(agreed, return_counts=True)
    reaching = np.cumsum(at_end[::-1])[::-1]
    # The reference alone saves nothing: the best end always keeps at least two members, for all agree on one block.
    best = int(ends[np.argmax((reaching - 1) * ends)])
    return agreed >= best, depth + best
