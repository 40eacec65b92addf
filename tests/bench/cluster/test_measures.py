"""What is made of requests: rates, skew, and when all is as it was."""

from __future__ import annotations

import pytest

from bench.cluster.cluster_run import Served
from bench.cluster.measures import Recovery, hit_rate, mean_ttft, recovery, skew


def served(ttft: dict[range, float], cached: int = 50) -> list[Served]:
    """A request a second from 0 to 59, with the seconds to its first token by when it came (else 1)."""
    times = {second: value for seconds, value in ttft.items() for second in seconds}
    return [Served(float(second), times.get(second, 1.0), 100, cached, 0) for second in range(60)]


def test_what_fell_is_back_when_its_windows_are_close_and_stay_so() -> None:
    """A dip from 12 to 20 is over in the window that begins at 20; one that comes again is not over between."""
    twin = served({})
    assert recovery(served({}), twin, 10, 60, mean_ttft, -1) == Recovery(1.0, 0.0)
    dip = recovery(served({range(12, 20): 3.0}), twin, 10, 60, mean_ttft, -1)
    assert dip.back_s == 10.0
    assert dip.worst == pytest.approx(2.6)
    assert recovery(served({range(12, 14): 3.0, range(26, 28): 4.0}), twin, 10, 60, mean_ttft, -1).back_s == 18.0
    assert recovery(served({range(12, 60): 3.0}), twin, 10, 60, mean_ttft, -1).back_s is None


def test_more_is_better_for_some_and_worse_for_others() -> None:
    """A hit rate that is above the twin's is no loss, and neither is a shorter wait."""
    twin, better = served({}), served({range(60): 0.1}, cached=90)
    assert recovery(better, twin, 0, 60, hit_rate, 1).back_s == 0.0
    assert recovery(better, twin, 0, 60, mean_ttft, -1).back_s == 0.0
    assert recovery(twin, better, 0, 60, hit_rate, 1) == Recovery(pytest.approx(50 / 90), None)


def test_skew_is_in_multiples_of_the_mean() -> None:
    """The largest, and the 99th percentile; nothing at all has none."""
    assert skew([1.0, 1.0, 4.0]) == (2.0, pytest.approx(1.97))
    assert skew([0.0, 0.0]) == (0.0, 0.0)
