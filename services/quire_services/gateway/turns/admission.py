"""Admission: how many requests of a tenant may wait at once.

The queue has a size. While there is place, any tenant may have all of it. Once it is full, a tenant is refused only if
it has its portion of it already, by weight among the tenants that wait: so a tenant that floods it fills it for itself,
and the others are let in beside the flood.

Invariants: a tenant of which nothing waits is never refused; n tenants have at most 1 + 1/2 + ... + 1/n times the size
waiting, at equal weights, or one request each.
"""

from __future__ import annotations

from collections import Counter

from .weights import Weights


class Admission:
    """The rule of one gateway.

    Args:
        size: prompts that may wait for their first token before any is refused.
    """

    def __init__(self, size: int, weights: Weights) -> None:
        self._size, self._weights = size, weights

    def refuses(self, tenant: str, waiting: Counter[str]) -> bool:
        """Whether a tenant may have no more, when so many of each wait."""
        if waiting.total() < self._size or not waiting[tenant]:
            return False
        mine = self._weights.of(tenant)
        portion = self._size * mine / sum(map(self._weights.of, waiting.keys() | {tenant}))
        return waiting[tenant] >= portion
