"""Histograms: where a value is counted, and what travels of it."""

from __future__ import annotations

import pytest

from quire_proto.wire.codec import CodecError, from_map, to_map
from quire_proto.wire.histogram import Distribution, Histogram


def test_a_value_is_counted_at_the_first_bound_that_it_does_not_exceed() -> None:
    """One that equals a bound is within it; one above all bounds is in the last count."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.5, 100.0):
        histogram.observe(value)

    assert histogram.distribution() == Distribution((1.0, 2.0), (2, 2, 2), 107.0)
    assert histogram.count == 6


def test_a_distribution_travels_and_one_that_is_none_is_refused() -> None:
    """As a map; bounds that do not rise, or too few counts, are no distribution."""
    histogram = Histogram((0.5,))
    histogram.observe(0.25)
    travelled = to_map(histogram.distribution())

    assert from_map(Distribution, travelled) == histogram.distribution()
    for wrong in ({"bounds": [2.0, 1.0], "counts": [0, 0, 0]}, {"counts": [1]}, {"bounds": [1.0, 1.0]}):
        with pytest.raises(CodecError):
            from_map(Distribution, travelled | wrong)
