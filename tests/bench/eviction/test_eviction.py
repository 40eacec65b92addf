"""The eviction bench runs, and measures every policy at every size."""

from __future__ import annotations

import json

import pytest

from bench import cli


def test_the_eviction_bench_measures_each_policy_at_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    """Times are positive and none is missing."""
    assert cli.main(["eviction", "--json", "--sizes", "300,600", "--rounds", "4"]) == 0

    rows = json.loads(capsys.readouterr().out)["figures"]["rows"]
    assert {(row["blocks"], row["policy"]) for row in rows} == {(n, p) for n in (300, 600) for p in ("density", "lru")}
    assert all(row["new_us"] > 0 and row["hit_us"] > 0 for row in rows)
