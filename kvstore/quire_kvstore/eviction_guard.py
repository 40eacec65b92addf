"""LruShadow: what plain LRU would have hit, so that a cleverer policy can stop when it does worse.

Holds only names: the digests an LRU cache of the same capacity would hold now, in its order. After each request the
difference in hits is known; both it and the number of references fade over ``HORIZON`` capacities. While the policy
is behind by more than ``MARGIN`` of the references, :attr:`behind` is true and the policy should evict as LRU does.
So whatever a workload does to the policy's assumptions, it ends near LRU.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Sequence

MARGIN = 0.004  # of references
SLACK = 0.01  # of the capacity: a few requests decide nothing
HORIZON = 64.0  # capacities


class LruShadow:
    """The names an LRU cache of ``capacity`` blocks would hold."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._names: OrderedDict[bytes, None] = OrderedDict()
        self._lead = self._references = 0.0
        self.behind = False

    def __len__(self) -> int:
        return len(self._names)

    def compare(self, digests: Sequence[bytes], hits: int) -> None:
        """A request hit ``hits`` blocks of ``digests``; judge by what LRU would have hit.

        What LRU holds of a chain is a run from its head, because tails are older: binary search finds its end.
        """
        would = bisect_left(digests, True, key=lambda digest: digest not in self._names)
        fade = math.exp(-len(digests) / (HORIZON * self._capacity))
        self._lead = self._lead * fade + hits - would
        self._references = self._references * fade + len(digests)
        self.behind = self._lead < -(MARGIN * self._references + SLACK * self._capacity)

    def use(self, digests: Iterable[bytes]) -> None:
        """Blocks were used, children before parents."""
        names = self._names
        for digest in digests:
            names.pop(digest, None)
            names[digest] = None
        while len(names) > self._capacity:
            names.popitem(last=False)
