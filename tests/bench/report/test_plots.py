"""Plots of results."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report import figures, plots

pytest.importorskip("matplotlib")


def test_plots_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines and bars become files among the results; a side that failed in a group has no bar there."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)

    assert plots.lines("curve", "t", ("x", "y"), {"a": [(1.0, 2.0), (2.0, 3.0)]}, log=True)
    assert plots.bars("rates", "t", "tokens / s", {"chat": {"quire": 2.0, "peer": 1.0}, "rag": {"quire": 3.0}})
    assert {file.name for file in tmp_path.iterdir()} == {"curve.png", "rates.png"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())
