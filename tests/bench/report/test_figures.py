"""Percentiles and tables of the benches."""

from __future__ import annotations

import pytest

from bench.report.figures import median, percentile, table


def test_percentile_interpolates() -> None:
    """A percentile between two values lies between them in proportion."""
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([1.0, 2.0], 1.0) == 2.0
    assert median([5.0]) == 5.0


def test_percentile_of_nothing() -> None:
    """There is no percentile of no values."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_table_marks_what_was_not_measured() -> None:
    """A missing figure is a dash, not a zero."""
    assert table([["a", None, 0.12345]], ["x", "y", "z"]).splitlines()[-1] == "| a   |   - | 0.123 |"
