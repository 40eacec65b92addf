"""The group rule: where groups pay, and that results do not depend on it."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

from quire_engine.attention.groups import find_groups
from quire_engine.attention.plan import build_plan
from quire_kernels.group_rule import DEFAULT_WEIGHTS, FREE, GroupRule, weights_for
from tests.engine.attention.test_plan import visible_pairs

LLAMA = GroupRule(kv_heads=8, group=4, head_dim=128, itemsize=2, block_m=64, places=264, weights=DEFAULT_WEIGHTS)
BLOCK = 16


def gain(rule: GroupRule, members: int, keys: int, rows: int = 0) -> float:
    """What one group is worth."""
    return float(rule.gain(np.array([members]), np.array([rows or members]), np.array([keys]))[0])


@pytest.mark.parametrize(("members", "keys"), [(32, 2048), (4, 8192), (256, 512), (16, 32768)])
def test_long_prompts_of_many_pay(members: int, keys: int) -> None:
    """A prompt of 2,048 tokens that 32 sequences share is read as a group, and so are the like."""
    assert gain(LLAMA, members, keys) > 0


@pytest.mark.parametrize(
    ("rule", "members", "keys", "rows"),
    [
        (LLAMA, 2, 16, 2),  # one block: the partial results are larger than the keys
        (LLAMA, 4, 256, 4),  # saves less than the gap between two kernels costs
        (replace(LLAMA, group=64, kv_heads=1), 32, 2048, 32),  # each row fills a tile of its own: nothing is read less
        (LLAMA, 2, 512, 1024),  # prefill chunks read the run once for many rows anyway
    ],
)
def test_what_saves_little_does_not_pay(rule: GroupRule, members: int, keys: int, rows: int) -> None:
    """Short runs, few sequences, tiles that a single row fills, and chunks of many rows are left ungrouped."""
    assert gain(rule, members, keys, rows) <= 0


def test_gain_is_the_documented_balance() -> None:
    """The gain is the bytes saved less the bytes of partial results, as the docstring has it."""
    rule = GroupRule(kv_heads=2, group=4, head_dim=64, itemsize=2, block_m=32, places=32, weights=DEFAULT_WEIGHTS)
    # 20 rows of 4 heads are 3 tiles of 8 rows; 32 places over 6 programs are 5 pieces of at least 128 keys.
    saved, partials = (20 - 3) * 2 * 4096 * 64 * 2, 20 * 4 * (5 + 1) * 2 * 4 * 65

    assert gain(rule, 20, 4096) == 2 * (saved - DEFAULT_WEIGHTS.margin * partials) - DEFAULT_WEIGHTS.fixed_bytes


def test_groups_that_do_not_pay_are_left_out() -> None:
    """The rule drops an outer group of short keys and keeps the long one inside it, which then begins at key 0."""
    common, prefix = [1], list(range(10, 138))
    tables = [np.array([*common, *prefix, 500 + i], np.int32) for i in range(8)]
    tables += [np.array([*common, 900 + i, 950 + i], np.int32) for i in range(2)]
    limits = np.array([len(table) - 1 for table in tables])
    rows = np.ones(len(tables), np.int64)

    found = find_groups(tables, limits, rows, BLOCK, LLAMA)
    every = find_groups(tables, limits, rows, BLOCK, replace(LLAMA, weights=FREE))

    assert [(group.members.tolist(), group.first, group.last) for group in found] == [(list(range(8)), 0, 129)]
    assert len(every) > len(found)


def test_a_useless_reference_does_not_hide_a_group() -> None:
    """A long sequence that shares one block with all others is set aside; the others' common prefix is still found."""
    prefix = list(range(10, 138))
    tables = [np.array([1, *prefix, 500 + i], np.int32) for i in range(8)]
    tables.append(np.array([1, *range(1000, 1400)], np.int32))
    limits = np.array([len(table) - 1 for table in tables])

    found = find_groups(tables, limits, np.ones(9, np.int64), BLOCK, LLAMA)

    assert [(group.members.tolist(), group.last) for group in found] == [(list(range(8)), 129)]


@pytest.mark.parametrize(("margin", "items"), [(0.0, 6), (1e9, 5)])
def test_every_rule_covers_the_same_pairs(margin: float, items: int) -> None:
    """Whatever the rule takes or leaves, each row sees each of its keys exactly once."""
    tables = [np.array([7, 8, 1, 2, 20], np.int32), np.array([7, 8, 1, 3, 21], np.int32), np.array([7, 4, 5], np.int32)]
    plan = build_plan(tables, [17, 16, 9], [1, 3, 2], 4)
    rule = replace(LLAMA, kv_heads=1, weights=replace(DEFAULT_WEIGHTS, margin=margin, fixed_bytes=0))

    assert sorted(visible_pairs(plan, None, rule)) == sorted(visible_pairs(plan, None))
    assert len(plan.items(None, rule)) == items


def test_rows_of_the_table_are_used() -> None:
    """An architecture with a row uses its numbers, one without the start, and the interpreter groups all it can."""
    rows = json.loads(files("quire_kernels").joinpath("group_table.json").read_text())["rows"]

    assert all(weights_for(row["arch"]).margin == row["margin"] for row in rows)
    assert weights_for("sm_999") == DEFAULT_WEIGHTS
    assert weights_for("interpreter") == FREE
