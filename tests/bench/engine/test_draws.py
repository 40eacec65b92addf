"""The bench of draws: both ways draw the same tokens."""

from __future__ import annotations

import argparse

import pytest

from bench.engine import draws


def test_both_ways_draw_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every kind of filter; a ratio stands beside both times."""
    monkeypatch.setattr(draws, "VOCABULARIES", (3000,))
    parser = argparse.ArgumentParser()
    draws.add_arguments(parser)
    report = draws.run(parser.parse_args(["--pairs=2"]))
    cases = report.figures["cases"]
    assert len(cases) == 2 * len(draws.FILTERS)
    assert all(case["same"] == case["drawn"] for case in cases)
    assert all(case["sorted_ms"] > 0 < case["ours_ms"] and case["ratio"] > 0 for case in cases)
