"""Fitting the group rule: it finds the weights behind the times, and gives up where no weights keep the bound."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np

from bench.gpu.fit_groups import FIXED, Point, fit, write_group_row
from quire_kernels.group_rule import DEFAULT_WEIGHTS, GroupRule, Weights

RULE = GroupRule(kv_heads=8, group=4, head_dim=128, itemsize=2, block_m=64, places=264, weights=DEFAULT_WEIGHTS)


def made_up(truth: Weights) -> list[Point]:
    """Steps whose grouped time is lower exactly where the rule with ``truth`` says so."""
    found = []
    for members, keys in product((2, 4, 16, 64), (64, 512, 2048, 8192)):
        count = np.array([members])
        rule = GroupRule(8, 4, 128, 2, 64, 264, truth)
        gain = float(rule.gain(count, count, np.array([keys]))[0])
        found.append(Point(RULE, members, keys, grouped_ms=10 - gain / 1e9, private_ms=10.0))
    return found


def test_the_fit_chooses_as_the_times_do() -> None:
    """With the fitted weights the rule takes the faster way in every step."""
    measured = made_up(Weights(1.0, FIXED[-1]))

    weights = fit(measured)

    assert weights is not None
    assert all(point.chosen_ms(weights) == min(point.grouped_ms, point.private_ms) for point in measured)


def test_no_weights_may_lose_more_than_the_bound() -> None:
    """Where groups are slower whatever their size, the weights that group least still would lose: none are given."""
    slow = [Point(RULE, 256, 32768, grouped_ms=2.0, private_ms=1.0)]

    assert fit(slow) is None


def test_the_row_is_replaced(tmp_path: Path) -> None:
    """Writing replaces the row of that architecture and leaves the others."""
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"note": "kept", "rows": [{"arch": "sm_80", "margin": 1, "fixed_bytes": 0}]}))

    for margin in (1.0, 2.0):
        write_group_row("sm_90", Weights(margin, 5), "here", table)

    content = json.loads(table.read_text())
    assert content["note"] == "kept"
    assert [(row["arch"], row["margin"]) for row in content["rows"]] == [("sm_80", 1), ("sm_90", 2.0)]
