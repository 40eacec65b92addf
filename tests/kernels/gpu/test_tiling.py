"""Tiles cover exactly what rows may see; splits follow keys, heads and multiprocessors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_engine.attention.groups import MAX_LEVELS
from quire_engine.attention.plan import build_plan
from quire_kernels.gpu.device_work import Capacity, DeviceWork
from quire_kernels.gpu.launch_table import Launch
from quire_kernels.gpu.tiling import REGIMES, Shape, tile_items

BLOCK = 16
LAUNCHES = dict.fromkeys(REGIMES, Launch(16, 16, 4, 1, per_sm=2))
STEPS = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 40)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    steps=STEPS,
    shared=st.integers(0, 4),
    window=st.sampled_from([None, 1, 16, 29]),
    run=st.sampled_from([None, 64]),
    group=st.sampled_from([1, 4]),
)
def test_every_visible_key_is_read_once(
    steps: list[tuple[int, int]], shared: int, window: int | None, run: int | None, group: int
) -> None:
    """Through tiles and masks, each row sees each key it may see once, in the right slot, and no other."""
    starts, counts = [s for s, _ in steps], [c for _, c in steps]
    tables, fresh = [], 100
    for start, count in steps:
        need = -(-(start + count) // BLOCK)
        own = np.arange(fresh, fresh + need)
        own[: min(shared, start // BLOCK)] = np.arange(min(shared, start // BLOCK))
        fresh += need
        tables.append(own.astype(np.int32))
    plan = build_plan(tables, starts, counts, BLOCK)
    tiles = tile_items(plan.items(window), plan.positions, BLOCK, Shape(2, group, LAUNCHES, 1, run))

    seen: dict[tuple[int, int], int] = {}
    for regime in REGIMES:
        for entry, rows, table, kv_start, kv_len, hidden, free in tiles.records[regime].tolist():
            assert rows <= 16 // group
            for row in tiles.rows[entry : entry + rows].tolist():
                position = int(plan.positions[row])
                for key in range(kv_len):
                    token = kv_start + key
                    slot = int(plan.table[table + (kv_start % BLOCK + key) // BLOCK]) * BLOCK + token % BLOCK
                    visible = regime == "group" or token <= position
                    visible = visible and (window is None or token > position - window)
                    assert visible or not hidden <= key < free, "a key in the mask-free part is not visible"
                    if visible:
                        seen[row, slot] = seen.get((row, slot), 0) + 1
    row = 0
    wanted = set()
    for table_, start, count in zip(tables, starts, counts, strict=True):
        for position in range(start, start + count):
            low = 0 if window is None else max(0, position - window + 1)
            wanted |= {(row, int(table_[t // BLOCK]) * BLOCK + t % BLOCK) for t in range(low, position + 1)}
            row += 1

    assert set(seen.values()) == {1}
    assert set(seen) == wanted


def test_partials_are_numbered_once_and_merged_all() -> None:
    """Places are a permutation of 0..n, all in the merge list of their row; sole results have place -1."""
    tables = [np.array([0, 1, 2, 3 + i], dtype=np.int32) for i in range(3)]
    plan = build_plan(tables, [50, 51, 52], [1, 4, 1], BLOCK)
    tiles = tile_items(plan.items(), plan.positions, BLOCK, Shape(1, 1, LAUNCHES, 1))

    assert sorted(tiles.places[tiles.places >= 0].tolist()) == list(range(tiles.partials))
    for i, row in enumerate(tiles.merge_rows.tolist()):
        listed = tiles.merge_places[tiles.merge_ptr[i] : tiles.merge_ptr[i + 1]]
        assert sorted(listed.tolist()) == sorted(tiles.places[tiles.rows == row].tolist())
        assert len(listed) > 1
    assert (tiles.places[~np.isin(tiles.rows, tiles.merge_rows)] == -1).all()


def test_a_chunk_and_its_past_are_one_tile() -> None:
    """Without a shared prefix nothing of a prefill needs merging."""
    plan = build_plan([np.arange(6, dtype=np.int32)], [50], [16], BLOCK)
    tiles = tile_items(plan.items(), plan.positions, BLOCK, Shape(1, 1, LAUNCHES, 100))

    assert tiles.partials == 0
    assert tiles.records["prefill"][:, 3:5].tolist() == [[0, 66]]


def test_refill_keeps_addresses_and_pads_slots() -> None:
    """A buffer takes over smaller steps in place, padded rows are never stored, and larger steps are refused."""
    device = torch.device("cpu")
    shape = Shape(2, 1, LAUNCHES, 2)
    work = DeviceWork(Capacity.for_decode(rows=4, levels=3, table=40, shape=shape), device)
    address = work.table.data_ptr()
    for rows in (4, 2):
        plan = build_plan([np.arange(i, i + 3, dtype=np.int32) for i in range(rows)], [40] * rows, [1] * rows, BLOCK)
        tiles = tile_items(plan.items(), plan.positions, BLOCK, shape)
        work.refill(tiles, plan.positions, plan.slots, plan.table)

        assert work.slots.tolist() == [*plan.slots.tolist(), *[-1] * (4 - rows)]
        assert int(work.count("decode")) == len(tiles.records["decode"]) == rows
    assert work.table.data_ptr() == address

    plan = build_plan([np.arange(9, dtype=np.int32)] * 5, [130] * 5, [1] * 5, BLOCK)
    tiles = tile_items(plan.items(), plan.positions, BLOCK, shape)
    with pytest.raises(ValueError, match="exceed the capacity of"):
        work.refill(tiles, plan.positions, plan.slots, plan.table)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=24),
    shares=st.lists(st.integers(0, 300), min_size=3, max_size=3),
    kv_heads=st.sampled_from([1, 2, 8]),
    group=st.sampled_from([1, 4, 8]),
    sm_count=st.sampled_from([4, 132]),
)
def test_every_decode_step_fits_the_capacity_of_its_rows(
    lengths: list[int], shares: list[int], kv_heads: int, group: int, sm_count: int
) -> None:
    """Nested shared prefixes, long and short sequences, few and many programs: no section overflows."""
    rows = len(lengths)
    starts = [length - 1 for length in lengths]
    tables = []
    for i, start in enumerate(starts):  # all share the first run, every second the next, every fourth the third
        runs = [np.arange(share) + 10_000 * (10 * level + i % (1 << level)) for level, share in enumerate(shares)]
        own = np.arange(start // BLOCK + 1) + 10_000 * (100 + i)
        tables.append(np.concatenate([*runs, own])[: start // BLOCK + 1].astype(np.int32))
    plan = build_plan(tables, starts, [1] * rows, BLOCK)
    launches = {**LAUNCHES, "group": Launch(64, 64, 8, 2), "prefill": Launch(64, 64, 8, 2)}
    shape = Shape(kv_heads, group, launches, sm_count)
    tiles = tile_items(plan.items(), plan.positions, BLOCK, shape)
    capacity = Capacity.for_decode(rows, MAX_LEVELS, len(plan.table), shape)

    DeviceWork(capacity, torch.device("cpu")).refill(tiles, plan.positions, plan.slots, plan.table)
