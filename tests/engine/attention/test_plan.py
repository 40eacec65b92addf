"""The attention plan: what its work items cover, and which prefixes it groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_engine.attention.groups import MAX_LEVELS, READS_SAVED, Rule
from quire_engine.attention.plan import AttentionPlan, build_plan
from tests.support.dense_attention import Batch, random_batch, slots_of

SEQUENCE = st.tuples(st.integers(0, 6), st.integers(0, 40), st.one_of(st.just(1), st.integers(1, 150)))


def visible_pairs(plan: AttentionPlan, window: int | None, rule: Rule = READS_SAVED) -> list[tuple[int, int, int]]:
    """(row, key position, arena slot) of every pair the items make visible, with repetitions."""
    items, pairs = plan.items(window, rule), []
    for i in range(len(items)):
        key = items.kv_start[i] + np.arange(items.kv_len[i])
        token = key - items.kv_start[i] // plan.block_size * plan.block_size
        block = plan.table[items.table_start[i] + token // plan.block_size]
        slot = block * plan.block_size + token % plan.block_size
        for row in items.rows[items.row_ptr[i] : items.row_ptr[i + 1]]:
            ahead = key - plan.positions[row]
            seen = np.ones(len(key), bool)
            if items.causal[i]:
                seen = (ahead <= 0) if items.window is None else (ahead <= 0) & (ahead > -items.window)
            pairs += [(int(row), int(k), int(s)) for k, s in zip(key[seen], slot[seen], strict=True)]
    return pairs


def expected_pairs(batch: Batch, window: int | None) -> list[tuple[int, int, int]]:
    """What attention is: each query token sees its own sequence up to itself, within the window."""
    pairs, row = [], 0
    for i, (start, count) in enumerate(zip(batch.starts, batch.counts, strict=True)):
        for position in range(start, start + count):
            low = 0 if window is None else max(0, position + 1 - window)
            slots = slots_of(batch, i, low, position + 1)
            pairs += [(row, k, int(s)) for k, s in zip(range(low, position + 1), slots, strict=True)]
            row += 1
    return pairs


@settings(max_examples=60, deadline=None)
@given(
    block_size=st.sampled_from([1, 3, 16]),
    sequences=st.lists(SEQUENCE, min_size=1, max_size=6),
    window=st.one_of(st.none(), st.integers(1, 90)),
    group=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_every_visible_pair_is_covered_exactly_once(block_size, sequences, window, group, seed):
    """Items cover each visible (row, key) pair once, in the right slot, and nothing else."""
    shared = [n for n, _, _ in sequences]
    private = [(past, count) for _, past, count in sequences]
    batch = random_batch(np.random.default_rng(seed), block_size=block_size, shared=shared, private=private)
    plan = build_plan(batch.tables, batch.starts, batch.counts, block_size, group=group)

    assert sorted(visible_pairs(plan, window)) == sorted(expected_pairs(batch, window))


def test_positions_and_slots_follow_the_tables():
    """Each query token has its position in its sequence and the slot its table names."""
    batch = random_batch(np.random.default_rng(1), block_size=4, shared=[2, 2, 0], private=[(3, 1), (0, 6), (9, 2)])
    plan = build_plan(batch.tables, batch.starts, batch.counts, 4)

    assert plan.positions.tolist() == [11, 8, 9, 10, 11, 12, 13, 9, 10]
    expected = [slots_of(batch, i, s, s + c) for i, (s, c) in enumerate(zip(batch.starts, batch.counts, strict=True))]
    assert plan.slots.tolist() == np.concatenate(expected).tolist()


def decodes(tables: list[list[int]], block_size: int = 4) -> AttentionPlan:
    """One decode per table, at the first slot of its last block."""
    starts = [(len(table) - 1) * block_size for table in tables]
    return build_plan([np.array(t, np.int32) for t in tables], starts, [1] * len(tables), block_size)


def shapes(plan: AttentionPlan) -> list[tuple[int, int, int]]:
    """(rows, first key, keys) of each item."""
    items = plan.items()
    return list(zip(np.diff(items.row_ptr).tolist(), items.kv_start.tolist(), items.kv_len.tolist(), strict=True))


def test_a_shared_prefix_is_read_once():
    """Sequences that begin with the same blocks become one item over them, and one item each after them."""
    plan = decodes([[7, 8, 9, 1], [7, 8, 9, 2], [7, 8, 9, 3]])

    assert shapes(plan) == [(3, 0, 12), (1, 12, 1), (1, 12, 1), (1, 12, 1)]


def test_groups_nest():
    """Members of a group that share more than the group become a group inside it."""
    plan = decodes([[7, 8, 1, 2], [7, 8, 1, 3], [7, 8, 4, 5], [7, 8, 4, 6]])

    assert shapes(plan)[:3] == [(4, 0, 8), (2, 8, 4), (2, 8, 4)]


def test_a_short_member_does_not_cut_a_long_prefix():
    """One sequence that shares a single block leaves the others' long prefix in one piece."""
    prefix = list(range(10, 40))
    plan = decodes([[*prefix, 1], [*prefix, 2], [*prefix, 3], [10, 4]])

    assert shapes(plan)[0] == (3, 0, 120)
    assert shapes(plan)[-1] == (1, 0, 5)


def test_no_row_lies_in_more_groups_than_levels_allow():
    """A staircase of ever longer common prefixes is grouped at most MAX_LEVELS deep."""
    chain = list(range(100, 130))
    plan = decodes([[*chain[: 3 * n], n, 50 + n] for n in range(1, 10) for _ in range(2)])
    items = plan.items()
    grouped = np.flatnonzero(np.diff(items.row_ptr) > 1)
    membership = np.concatenate([items.rows[items.row_ptr[i] : items.row_ptr[i + 1]] for i in grouped])

    assert 1 < np.bincount(membership).max() <= MAX_LEVELS


def test_only_blocks_below_every_start_are_grouped():
    """Blocks a member is still writing are left to it, even where tables agree."""
    tables = [np.array([5, 6, 1], np.int32), np.array([5, 6, 2], np.int32)]
    plan = build_plan(tables, [8, 6], [1, 3], 4)

    assert shapes(plan)[0] == (4, 0, 4)


@pytest.mark.parametrize("window", [200, 10_000])
def test_a_window_nothing_has_outgrown_shares_the_full_list(window):
    """Layers with and without a window use the same items while every sequence is shorter than the window."""
    plan = decodes([[7, 8, 1], [7, 8, 2]])

    assert plan.items(window) is plan.items()
