"""The attention plan of one step: which query rows read which blocks.

Owns the geometry of a packed (ragged) batch. Sequences lie one after another in the batch; a sequence contributes
``count`` query tokens, of which the first has position ``start``. From block tables, starts and counts follow

- ``positions`` and ``slots``: where each packed token stands in its sequence, and where its K and V are written;
- *work items*: sets of query rows that read one run of tokens from one table. Prefixes that several sequences
  share become one item for all their rows; what is left of each sequence becomes private items.

Every backend and every layer of a step takes the same list; layers with a sliding window take the list of that
window, built once on first use. It is plain numpy: no tensor, no device, no layer.

Invariants: each visible (row, key) pair is covered by exactly one item, no other pair is visible through any item,
and no item reaches past ``start + count`` of a sequence, because what lies behind is unwritten memory. A row's
partial results of several items are merged by base-2 log-sum-exp.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .groups import READS_SAVED, IntArray, PrefixGroup, Rule, find_groups

WINDOW_TILE = 128  # query rows per item where a sliding window cuts through a prefill chunk


@dataclass(frozen=True, slots=True)
class WorkItems:
    """Work items as arrays, one entry per item unless said otherwise.

    Item i stands for query rows ``rows[row_ptr[i]:row_ptr[i + 1]]`` and for ``kv_len[i]`` keys at positions
    ``kv_start[i]``, ... of one sequence, found in the blocks
    ``plan.table[table_start[i] : table_start[i] + blocks]`` with ``kv_start[i] % block_size`` slots of the first
    block skipped. Rows see all keys of the item, unless ``causal[i]``: then a row at position p sees the keys at
    positions p - window < k <= p, and the rows of the item are consecutive.
    """

    window: int | None
    row_ptr: IntArray  # [items + 1]
    rows: IntArray  # [row_ptr[-1]]
    table_start: IntArray
    kv_start: IntArray
    kv_len: IntArray
    causal: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.kv_len)


@dataclass(slots=True)
class AttentionPlan:
    """Geometry of one step; see the module's docstring. T = query tokens of the step, N = sequences.

    Attributes:
        block_size: tokens in a block.
        table: all block tables, one after another, int64.
        table_ptr: [N] where each sequence's table begins in ``table``.
        starts, counts: [N] tokens in the arena before the step; query tokens of the step.
        row_start: [N] first row of each sequence in the batch.
        positions: [T] position of each query token in its sequence.
        slots: [T] arena slot (block * block_size + offset) that receives each query token's K and V.
        tables: the same tables, one by one.
        group: whether shared prefixes become items of their own.
        prepared: what a backend derives from the items once a step, by a key of its own.
    """

    block_size: int
    table: IntArray
    table_ptr: IntArray
    tables: list[npt.NDArray[np.int32]]
    starts: IntArray
    counts: IntArray
    row_start: IntArray
    positions: IntArray
    slots: IntArray
    group: bool
    prepared: dict[object, object] = field(default_factory=dict)
    _items: dict[tuple[int | None, Rule], WorkItems] = field(default_factory=dict)

    def items(self, window: int | None = None, rule: Rule = READS_SAVED) -> WorkItems:
        """Work items for layers with this sliding window (None: all of the past is visible).

        ``rule``: which shared prefixes are worth an item of their own.
        """
        window = self.seen(window)
        key = (window, rule)
        if key not in self._items:
            self._items[key] = _work_items(self, window, rule)
        return self._items[key]

    def seen(self, window: int | None) -> int | None:
        """``window``, or None while nothing is out of its sight: such layers share what is derived for full ones."""
        return None if window is not None and window >= int((self.starts + self.counts).max()) else window

    def groups(self, window: int | None = None, rule: Rule = READS_SAVED) -> list[PrefixGroup]:
        """Prefixes that several sequences share and see whole through this window, outer ones before those inside."""
        if not self.group:
            return []
        limits = np.where(self.inside(window), self.starts // self.block_size, 0)
        return find_groups(self.tables, limits, self.counts, self.block_size, rule)

    def inside(self, window: int | None) -> npt.NDArray[np.bool_]:
        """[N] whether all rows of a sequence see all its tokens before them."""
        ends = self.starts + self.counts
        return np.full(len(ends), True) if window is None else ends <= window


def build_plan(
    tables: list[npt.NDArray[np.int32]],
    starts: npt.ArrayLike,
    counts: npt.ArrayLike,
    block_size: int,
    *,
    group: bool = True,
) -> AttentionPlan:
    """The plan of a step over N >= 1 sequences.

    Args:
        tables: N block tables, each with room for at least ``start + count`` tokens.
        starts: [N] tokens already in the arena.
        counts: [N] query tokens of this step, at least 1 each; more than 1 for a prefill chunk.
        group: False leaves shared prefixes to each sequence (for comparison).
    """
    first, number = np.asarray(starts, dtype=np.int64), np.asarray(counts, dtype=np.int64)
    lengths = np.array([len(table) for table in tables], dtype=np.int64)
    assert len(tables) == len(first) == len(number) > 0, "one table, start and count per sequence"
    assert (number > 0).all(), "a sequence without query tokens"
    assert (lengths * block_size >= first + number).all(), "table too short"
    table = np.concatenate(tables).astype(np.int64)
    table_ptr = np.cumsum(lengths) - lengths
    row_start = np.cumsum(number) - number
    positions = ranges(first, number)
    slots = table[np.repeat(table_ptr, number) + positions // block_size] * block_size + positions % block_size
    return AttentionPlan(block_size, table, table_ptr, tables, first, number, row_start, positions, slots, group)


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """``starts[i], starts[i] + 1, ...`` (``lengths[i]`` numbers) for each i, concatenated."""
    total = int(lengths.sum())
    before = np.cumsum(lengths) - lengths
    return np.asarray(np.arange(total) + np.repeat(starts - before, lengths), dtype=np.int64)


def _work_items(plan: AttentionPlan, window: int | None, rule: Rule) -> WorkItems:
    """Group items first, then each sequence's private past, then the chunks' own tokens."""
    ends = plan.starts + plan.counts
    inside = plan.inside(window)
    shared = np.zeros(len(ends), dtype=np.int64)  # tokens of each sequence that group items cover
    groups = plan.groups(window, rule)
    for found in groups:
        shared[found.members] = found.last * plan.block_size
    parts = [_group_part(plan, found) for found in groups]

    decode = plan.counts == 1
    low = shared if window is None else np.where(inside, shared, ends - window)
    single = np.flatnonzero(decode)
    parts.append(_part(plan, single, plan.row_start[single], plan.counts[single], low[single], ends[single], False))
    past = np.flatnonzero(~decode & inside & (plan.starts > shared))
    parts.append(_part(plan, past, plan.row_start[past], plan.counts[past], low[past], plan.starts[past], False))
    chunk = np.flatnonzero(~decode & inside)
    parts.append(_part(plan, chunk, plan.row_start[chunk], plan.counts[chunk], plan.starts[chunk], ends[chunk], True))
    if window is not None:
        parts += [_window_part(plan, int(i), window) for i in np.flatnonzero(~decode & ~inside)]
    return _join(parts, window)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some items, before they are joined; the fields are those of WorkItems."""

    row_count: IntArray
    rows: IntArray
    table_start: IntArray
    kv_start: IntArray
    kv_len: IntArray
    causal: bool


def _part(
    plan: AttentionPlan, seqs: IntArray, row: IntArray, count: IntArray, low: IntArray, high: IntArray, causal: bool
) -> _Part:
    """One item per entry: rows ``row .. row + count`` of a sequence see its tokens ``low .. high``."""
    table_start = plan.table_ptr[seqs] + low // plan.block_size
    return _Part(count, ranges(row, count), table_start, low, high - low, causal)


def _group_part(plan: AttentionPlan, found: PrefixGroup) -> _Part:
    """One item: all rows of all members see the shared run, read through the first member's table."""
    counts = plan.counts[found.members]
    start = found.first * plan.block_size
    return _Part(
        row_count=counts.sum(keepdims=True),
        rows=ranges(plan.row_start[found.members], counts),
        table_start=plan.table_ptr[found.members[:1]] + found.first,
        kv_start=np.array([start]),
        kv_len=np.array([found.last * plan.block_size - start]),
        causal=False,
    )


def _window_part(plan: AttentionPlan, seq: int, window: int) -> _Part:
    """Tiles of a chunk that the window cuts through: each tile reads only what its rows can see."""
    first, count = int(plan.starts[seq]), int(plan.counts[seq])
    offset = np.arange(0, count, WINDOW_TILE)
    rows = np.minimum(count - offset, WINDOW_TILE)
    low = np.maximum(0, first + offset - window + 1)
    seqs = np.full(len(offset), seq)
    return _part(plan, seqs, plan.row_start[seq] + offset, rows, low, first + offset + rows, True)


def _join(parts: list[_Part], window: int | None) -> WorkItems:
    """All parts as one list of items."""
    row_count = np.concatenate([part.row_count for part in parts])
    return WorkItems(
        window=window,
        row_ptr=np.concatenate([[0], np.cumsum(row_count)]),
        rows=np.concatenate([part.rows for part in parts]),
        table_start=np.concatenate([part.table_start for part in parts]),
        kv_start=np.concatenate([part.kv_start for part in parts]),
        kv_len=np.concatenate([part.kv_len for part in parts]),
        causal=np.concatenate([np.full(len(part.kv_len), part.causal) for part in parts]),
    )
