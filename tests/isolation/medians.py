"""A verdict on paired differences: the same, different, or not known yet.

The interval of the median is the sign test's: between two order statistics, whatever the distribution of the noise. A
machine that stalls now and then moves a few differences far out and the interval hardly at all. *Same* means that the
whole interval lies within a margin, *different* that all of it lies beyond; else more pairs are needed. Looking again
after more pairs is paid for: each look has its share of the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb

LOOKS = (16, 32, 64, 128)  # pairs measured at each look
ERROR = 0.001  # of a wrong verdict, over all looks


def interval(differences: Sequence[float], error: float) -> tuple[float, float]:
    """Where the median lies but for a chance of ``error``; infinite if there are too few differences to say."""
    n, ordered = len(differences), sorted(differences)
    below, tail = 0, 0.5**n  # tail: the chance that at most ``below`` of n are under the median
    if 2 * tail > error:
        return float("-inf"), float("inf")
    while 2 * (tail + comb(n, below + 1) * 0.5**n) <= error:
        below += 1
        tail += comb(n, below) * 0.5**n
    return ordered[below], ordered[n - 1 - below]


def verdict(measure: Callable[[], tuple[float, float]]) -> tuple[str, str]:
    """``same``, ``different`` or ``unknown``, and the figures it rests on.

    ``measure`` gives one difference and one scale, both in seconds; the margin is a quarter of the scale's median.
    """
    pairs: list[tuple[float, float]] = []
    low = high = margin = 0.0
    for look in LOOKS:
        pairs += [measure() for _ in range(look - len(pairs))]
        margin = sorted(scale for _, scale in pairs)[look // 2] / 4
        low, high = interval([difference for difference, _ in pairs], ERROR / len(LOOKS))
        figures = f"{look} pairs: median in [{low * 1000:.1f}, {high * 1000:.1f}] ms, margin {margin * 1000:.1f} ms"
        if -margin < low and high < margin:
            return "same", figures
        if high < -margin or low > margin:
            return "different", figures
    return "unknown", figures
