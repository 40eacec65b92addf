"""From work items to tiles: what each program of a kernel does.

Owns the cutting of a step's work items (rows x run of keys, see the engine's plan) into tiles of at most BLOCK_M
rows times query heads per KV head, and of each tile's keys into runs by the split rule. It is numpy, done once a
step for all layers that share a window.

Three regimes, one launch each: *decode* (at most ``VERIFY_ROWS`` rows of one sequence), *group* (rows of several
sequences that all see the same run), *prefill* (a longer chunk of one sequence). A chunk's past and its own tokens
arrive as two items and become one: with one run there is nothing to merge.

Invariants: tiles cover exactly what their items cover; a tile reads no key past the position of its last row nor
before the window of its first; a row with one partial result has place -1 (written directly), every other
partial result has a place of its own, and the merge list names all places of each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .launch_table import Launch
from .split_rule import IntArray, split_lengths

REGIMES = ("decode", "group", "prefill")
VERIFY_ROWS = 8
# Fields of a tile's record, int32. ``hidden`` leading keys are out of some row's window; from key ``seen`` on, some
# row does not see what comes: between the two no mask is needed.
RECORD = ("entry", "rows", "table", "kv_start", "kv_len", "hidden", "seen")
Int32 = npt.NDArray[np.int32]


class Items(Protocol):
    """Work items as arrays; see ``quire_engine.attention.plan.WorkItems``."""

    @property
    def window(self) -> int | None: ...  # noqa: D102
    @property
    def row_ptr(self) -> IntArray: ...  # noqa: D102
    @property
    def rows(self) -> IntArray: ...  # noqa: D102
    @property
    def table_start(self) -> IntArray: ...  # noqa: D102
    @property
    def kv_start(self) -> IntArray: ...  # noqa: D102
    @property
    def kv_len(self) -> IntArray: ...  # noqa: D102
    @property
    def causal(self) -> npt.NDArray[np.bool_]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Shape:
    """What tiling must know of the kernels and the GPU.

    Attributes:
        kv_heads, group: KV heads; query heads for each.
        launches: by regime.
        sm_count: multiprocessors.
        fixed_run: see ``split_rule``.
    """

    kv_heads: int
    group: int
    launches: dict[str, Launch]
    sm_count: int
    fixed_run: int | None = None

    def rows(self, regime: str) -> int:
        """Rows that a tile holds."""
        return self.launches[regime].block_m // self.group

    def places(self, regime: str) -> int:
        """Programs that the GPU runs at a time."""
        return self.launches[regime].per_sm * self.sm_count


@dataclass(frozen=True, slots=True)
class Tiles:
    """All tiles of a step for one window.

    Attributes:
        window: window of the layers that use them.
        records: by regime, [tiles, len(RECORD)], longest run first.
        rows, places: [entries] query row and place of its partial result, -1 if it is the row's only one.
        merge_rows, merge_ptr, merge_places: rows with several partial results and where those are.
        partials: number of places.
    """

    window: int | None
    records: dict[str, Int32]
    rows: Int32
    places: Int32
    merge_rows: Int32
    merge_ptr: Int32
    merge_places: Int32
    partials: int


def tile_items(items: Items, positions: IntArray, block_size: int, shape: Shape) -> Tiles:
    """Tiles of ``items``; ``positions`` are those of all query rows of the step."""
    spans = _spans(items, block_size)
    several = spans[:, COUNT] > 1
    causal = spans[:, CAUSAL] > 0
    regime = np.where(several & ~causal, 1, np.where(causal & (spans[:, COUNT] > VERIFY_ROWS), 2, 0))
    parts = []
    for index, name in enumerate(REGIMES):
        cut = _cut_rows(spans[regime == index], items, positions, block_size, shape.rows(name))
        parts.append(_cut_keys(cut, block_size, shape, shape.places(name)))
    return _number(parts, items)


# Columns of a span: rows ``rows[FIRST:FIRST + COUNT]`` of the item list and the run of keys they read. POS_LOW and
# POS_HIGH, known after rows were cut, are the positions of the first and last row.
FIRST, COUNT, TABLE, START, LENGTH, CAUSAL, POS_LOW, POS_HIGH = range(8)


def _spans(items: Items, block_size: int) -> IntArray:
    """One span an item, with a chunk's past joined to the chunk."""
    count = np.diff(items.row_ptr)
    first = items.row_ptr[:-1]
    spans = np.zeros((len(count), 8), dtype=np.int64)
    spans[:, FIRST], spans[:, COUNT] = first, count
    spans[:, TABLE], spans[:, START], spans[:, LENGTH] = items.table_start, items.kv_start, items.kv_len
    spans[:, CAUSAL] = items.causal
    begins = {}
    for i in np.flatnonzero(~items.causal & (count > 1)):
        end = int(items.kv_start[i] + items.kv_len[i])
        begins[(int(items.rows[first[i]]), int(count[i]), end)] = i
    gone = np.zeros(len(count), dtype=bool)
    for i in np.flatnonzero(items.causal) if begins else ():
        past = begins.get((int(items.rows[first[i]]), int(count[i]), int(items.kv_start[i])))
        if past is None:
            continue
        ahead = items.kv_start[i] // block_size - items.kv_start[past] // block_size
        if items.table_start[past] + ahead == items.table_start[i]:
            spans[i, TABLE], spans[i, START] = items.table_start[past], items.kv_start[past]
            spans[i, LENGTH] += items.kv_len[past]
            gone[past] = True
    return spans[~gone]


def _cut_rows(spans: IntArray, items: Items, positions: IntArray, block_size: int, most: int) -> IntArray:
    """Spans of at most ``most`` rows; causal ones lose the keys that none of their rows sees."""
    assert most >= 1, "BLOCK_M below the number of query heads for each KV head"
    tiles = -(-spans[:, COUNT] // most)
    out = np.repeat(spans, tiles, axis=0)
    offset = (np.arange(len(out)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * most
    out[:, FIRST] += offset
    out[:, COUNT] = np.minimum(out[:, COUNT] - offset, most)
    out[:, POS_LOW] = positions[items.rows[out[:, FIRST]]]
    out[:, POS_HIGH] = positions[items.rows[out[:, FIRST] + out[:, COUNT] - 1]]
    causal = out[:, CAUSAL] > 0
    end = out[:, START] + out[:, LENGTH]
    end = np.where(causal, np.minimum(end, out[:, POS_HIGH] + 1), end)
    start = out[:, START].copy()
    if items.window is not None:
        start = np.where(causal, np.maximum(start, out[:, POS_LOW] - items.window + 1), start)
    out[:, TABLE] += start // block_size - out[:, START] // block_size
    out[:, START], out[:, LENGTH] = start, end - start
    # Which keys need no mask: all of them, unless the span is causal.
    window = items.window if items.window is not None else int(positions.max()) + 1
    out[:, POS_LOW] = np.where(causal, out[:, POS_LOW], end - 1)
    out[:, POS_HIGH] = np.where(causal, out[:, POS_HIGH] - window, start - 1)
    return out


def _cut_keys(spans: IntArray, block_size: int, shape: Shape, places: int) -> IntArray:
    """Records of one regime: spans cut into runs of keys, longest first.

    POS_LOW is now the last position that all rows see, POS_HIGH the last one that some row no longer sees.
    """
    if not len(spans):
        return np.zeros((0, len(RECORD)), dtype=np.int64)
    length = split_lengths(spans[:, LENGTH], shape.kv_heads, places, shape.fixed_run)
    runs = -(-spans[:, LENGTH] // length)
    out, step = np.repeat(spans, runs, axis=0), np.repeat(length, runs)
    offset = (np.arange(len(out)) - np.repeat(np.cumsum(runs) - runs, runs)) * step
    start = out[:, START] + offset
    kv_len = np.minimum(out[:, LENGTH] - offset, step)
    table = out[:, TABLE] + start // block_size - out[:, START] // block_size
    hidden = np.clip(out[:, POS_HIGH] + 1 - start, 0, kv_len)
    seen = np.clip(out[:, POS_LOW] + 1 - start, 0, kv_len)
    records = np.stack([out[:, FIRST], out[:, COUNT], table, start, kv_len, hidden, seen], axis=1)
    return np.asarray(records[np.argsort(-kv_len, kind="stable")])


def _number(parts: list[IntArray], items: Items) -> Tiles:
    """Give every partial result its place and every record its entries."""
    every = np.concatenate(parts)
    count = every[:, 1]
    begin = np.cumsum(count) - count
    source = np.arange(int(count.sum())) + np.repeat(every[:, 0] - begin, count)
    rows = items.rows[source]
    every[:, 0] = begin
    several = np.bincount(rows)[rows] > 1
    places = np.where(several, np.cumsum(several) - 1, -1)
    order = np.argsort(rows[several], kind="stable")
    merge_rows, merge_count = np.unique(rows[several], return_counts=True)
    bounds = np.cumsum([len(part) for part in parts])[:-1]
    return Tiles(
        window=items.window,
        records=dict(zip(REGIMES, np.split(every.astype(np.int32), bounds), strict=True)),
        rows=rows.astype(np.int32),
        places=places.astype(np.int32),
        merge_rows=merge_rows.astype(np.int32),
        merge_ptr=np.concatenate([[0], np.cumsum(merge_count)]).astype(np.int32),
        merge_places=order.astype(np.int32),
        partials=int(several.sum()),
    )
