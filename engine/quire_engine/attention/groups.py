"""Shared-prefix groups: which sequences of a step read the same leading blocks.

Owns the choice of groups, nothing else. A group is a set of sequences and a range of block-table indices at which
all their tables name the same physical blocks; attention reads those blocks once for all members. Groups nest: the
members of a group may split into smaller groups further down their tables, at most ``MAX_LEVELS`` deep, because
every level costs each of its rows one partial result to merge.

What a group is worth is the backend's business (``Rule``): a group that does not pay is left out, and what it would
have covered falls to the groups inside it or to the sequences themselves. No rule can change a result.

Invariants: only whole blocks below every member's ``start`` are grouped, so that every row of every member sees
all of them; groups at one level are disjoint; a group has at least two members and one block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
MAX_LEVELS = 3
REFERENCES = 4  # tables tried as reference before the rest of a branch is left ungrouped: it bounds a step's planning


class Rule(Protocol):
    """What groups are worth."""

    def gain(self, members: IntArray, rows: IntArray, keys: IntArray) -> npt.NDArray[np.float64]:
        """For groups of ``members`` sequences with ``rows`` query rows over ``keys`` keys: more than 0 if one pays.

        All are [groups].
        """
        ...


class ReadsSaved:
    """Every group pays, by the keys that are not read again: right for a CPU, whose groups are one larger product."""

    def gain(self, members: IntArray, rows: IntArray, keys: IntArray) -> npt.NDArray[np.float64]:  # noqa: ARG002
        """Keys read less; how many rows read them does not matter."""
        return np.asarray((members - 1) * keys, dtype=np.float64)


READS_SAVED = ReadsSaved()


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Sequences ``members`` (indices into the step) share table entries ``first`` to ``last`` (exclusive)."""

    members: IntArray
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Tables:
    """Block tables side by side: [sequences, longest limit], filled up with -1; and what the rule must know."""

    entries: npt.NDArray[np.int32]
    limits: IntArray
    rows: IntArray
    block_size: int
    rule: Rule


def find_groups(
    tables: list[npt.NDArray[np.int32]], limits: IntArray, rows: IntArray, block_size: int, rule: Rule
) -> list[PrefixGroup]:
    """Groups over the first ``limits[i]`` entries of each table, outer groups before the groups inside them.

    A sequence with limit 0 joins no group. ``rows`` are each sequence's query rows.
    """
    candidates = np.flatnonzero(limits > 0)
    if len(candidates) < 2:
        return []
    entries = np.full((len(tables), int(limits.max())), -1, dtype=np.int32)
    for i in candidates:
        entries[i, : limits[i]] = tables[i][: limits[i]]
    groups: list[PrefixGroup] = []
    _split(_Tables(entries, limits, rows, block_size, rule), candidates, 0, 0, groups)
    return groups


def _split(of: _Tables, members: IntArray, depth: int, level: int, groups: list[PrefixGroup]) -> None:
    """Append the groups among ``members``, whose tables agree below ``depth``, and recurse into each."""
    if level == MAX_LEVELS:
        return
    members = members[of.limits[members] > depth]
    if len(members) < 2:
        return
    heads, which = np.unique(of.entries[members, depth], return_inverse=True)
    sizes = np.bincount(which, minlength=len(heads))
    for head in np.flatnonzero(sizes > 1):
        rest, tries = members[which == head], REFERENCES
        while len(rest) > 1 and tries:
            reference = int(np.argmax(of.limits[rest]))
            found = _best_group(of, rest, reference, depth)
            if found is None:
                rest, tries = np.delete(rest, reference), tries - 1
                continue
            chosen, last = found
            groups.append(PrefixGroup(rest[chosen], depth, last))
            _split(of, rest[chosen], last, level + 1, groups)
            rest = rest[~chosen]


def _best_group(of: _Tables, members: IntArray, reference: int, depth: int) -> tuple[npt.NDArray[np.bool_], int] | None:
    """Which of ``members`` to group with ``members[reference]`` from ``depth`` on, and up to which table index.

    The reference has the longest table. A group that ends at index e keeps the members that agree with it up to
    there: the end that gains most wins, None if none pays. Without this weighing, one sequence with a short common
    prefix would cut the group of all others short.
    """
    end = of.limits[members[reference]]
    same = of.entries[members, depth:end] == of.entries[members[reference], depth:end]
    agreed = np.where(same.all(axis=1), same.shape[1], np.argmin(same, axis=1))
    ends, at_end = np.unique(agreed, return_inverse=True)
    reaching = np.cumsum(np.bincount(at_end)[::-1])[::-1]
    rows = np.cumsum(np.bincount(at_end, weights=of.rows[members])[::-1])[::-1].astype(np.int64)
    gain = np.where(reaching > 1, of.rule.gain(reaching, rows, ends * of.block_size), 0.0)
    best = int(np.argmax(gain))
    if gain[best] <= 0:
        return None
    return agreed >= ends[best], depth + int(ends[best])
