"""The paged bench: rates at equal latency, and a report from the rounds there are."""

from __future__ import annotations

import pytest

from bench.engine.paged import MODES, SHOWN, RateSamples, equal_latency, fill_report, rate_at
from bench.report.figures import Report


def test_rate_at_a_latency_is_interpolated() -> None:
    """Between two measured rates the latency is taken to grow evenly."""
    points = [(1.0, 0.1), (2.0, 0.3)]

    assert rate_at(points, 0.2) == pytest.approx(1.5)
    assert rate_at(points, 0.1) == 1.0
    assert rate_at(points, 5.0) == 2.0


def test_rate_that_no_latency_allows() -> None:
    """A curve that is slower at its lowest rate already takes no measured rate."""
    assert rate_at([(1.0, 0.4), (2.0, 0.5)], 0.3) is None


def test_equal_latency_compares_with_static_batches() -> None:
    """At the latency static batches have, blocks take their rate over; a curve that ends below says at least."""
    curves = {
        "static": [(0.5, 0.4), (1.0, 2.0)],
        "continuous": [(0.5, 0.5), (1.0, 0.6)],
        "quire": [(0.5, 0.2), (1.0, 0.6)],
    }
    first, second = equal_latency(curves)

    assert first["quire"] == pytest.approx(0.75)
    assert first["over_static"] == pytest.approx(1.5)
    assert not first["at_least"]
    assert first["continuous"] is None
    assert second["over_static"] == pytest.approx(1.0)
    assert second["at_least"]


def test_report_of_rounds_so_far() -> None:
    """A run cut short has tables of the rates it came to, each with the number of its rounds."""
    samples: RateSamples = {}
    for number, mode in enumerate(MODES):
        samples[mode, 0.0] = [dict.fromkeys(SHOWN, 10.0 * (number + 1)), dict.fromkeys(SHOWN, 20.0 * (number + 1))]
        samples[mode, 0.5] = [dict.fromkeys(SHOWN, 1.0)]
    report = Report("paged", {})
    fill_report(report, samples)
    fill_report(report, samples)

    assert report.figures["quire_over_static"] == 3.0
    headings = [heading for heading, _ in report.tables]
    assert headings == ["all requests at once", "0.5 requests/s", "requests/s at equal normalised latency"]
    assert {row["rounds"] for row in report.figures["runs"] if row["rate"]} == {1}
