"""Measures: what runs of a cluster say. Rates, skew, and how long it takes until all is as it was.

What is lost is judged beside a *twin*: the run of the same seed in which no node is lost. Agents do and say the same in
both, so that what differs comes of the loss, and not of the hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.report.figures import percentile

from .cluster_run import Served

BAND = 0.05  # back is what is this close to the twin
WINDOW_S, STRIDE_S = 10.0, 2.0  # of what is compared
STAYS = 5  # strides in a row that it is close for


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a loss did to one quantity.

    Attributes:
        worst: its worst ratio to the twin, in a window.
        back_s: from the loss until it is close to the twin after that, and stays so; 0: it always was, None: not by the
            end.
    """

    worst: float
    back_s: float | None


def between(served: Sequence[Served], start: float, end: float) -> list[Served]:
    """Requests that arrived then."""
    return [one for one in served if start <= one.arrival < end]


def hit_rate(served: Sequence[Served]) -> float:
    """Share of prompt tokens that were not computed."""
    return sum(one.cached for one in served) / max(1, sum(one.prompt for one in served))


def mean_ttft(served: Sequence[Served]) -> float:
    """Mean seconds to the first token."""
    return sum(one.ttft for one in served) / max(1, len(served))


def skew(values: Sequence[float]) -> tuple[float, float]:
    """Largest and 99th percentile, in multiples of the mean."""
    mean = sum(values) / len(values)
    return (max(values) / mean, percentile(values, 0.99) / mean) if mean else (0.0, 0.0)


def recovery(
    lost: Sequence[Served],
    twin: Sequence[Served],
    start: float,
    end: float,
    measure: Callable[[Sequence[Served]], float],
    better: int,
) -> Recovery:
    """How a quantity fell and came back. ``better``: 1 if more of it is better, -1 if less is."""
    ratios = []
    for begin in np.arange(start, end - WINDOW_S + 1e-9, STRIDE_S).tolist():
        was = measure(between(twin, begin, begin + WINDOW_S))
        ratios.append(measure(between(lost, begin, begin + WINDOW_S)) / was if was else 1.0)
    close = [better * (ratio - 1) >= -BAND for ratio in ratios]
    worst = min(ratios) if better > 0 else max(ratios)
    if all(close):
        return Recovery(worst, 0.0)
    for index in range(ratios.index(worst), len(close) - STAYS):
        if all(close[index : index + STAYS + 1]):
            return Recovery(worst, index * STRIDE_S)
    return Recovery(worst, None)
