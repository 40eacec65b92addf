"""Histograms: how many of some measured values fell into which range.

A process that measures keeps a ``Histogram``, to which a value costs a binary search and two additions, however many
there have been. It travels, and is shown, as a ``Distribution``, which says its own bounds: what reads it needs to know
no more than the name of what was measured.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """What was measured until now. ``counts[i]``: values at most ``bounds[i]`` and above the bound before; the last of
    them, values above all bounds. ``total``: the sum of all values."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.bounds) + 1 or list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError("bounds rise, and there is one count more than there are bounds")


class Histogram:
    """Counts values as they are measured. ``bounds``: rising."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self._counts)

    def distribution(self) -> Distribution:
        """It, as it is now."""
        return Distribution(self._bounds, tuple(self._counts), self._total)
