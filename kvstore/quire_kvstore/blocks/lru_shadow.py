"""LruShadow: what plain LRU would have hit, so that a cleverer policy can stop when it does worse.

Holds only names: the digests an LRU cache of the same capacity would hold now. After each request the difference in
hits is known; both it and the number of references fade over ``HORIZON`` capacities. While the policy is behind by
more than ``MARGIN`` of the references, :attr:`behind` is true and the policy should evict as LRU does. So whatever a
workload does to the policy's assumptions, it ends near LRU.

The order is kept by table, not by name: each use is a list, a name belongs to the last use that has it, and what else
stands in a list is *stale*. So a use costs two passes over its names in C, and the children of a fork, which are used
one after the other with the same names, next to nothing. Invariant: lists are at most about twice as long as what
they hold, for each use sweeps twice its length of the oldest lists once that is not so.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import repeat

MARGIN = 0.004  # of references
SLACK = 0.01  # of the capacity: a few requests decide nothing
HORIZON = 64.0  # capacities

Use = tuple[int, list[bytes]]


class LruShadow:
    """The names an LRU cache of ``capacity`` blocks would hold."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used: dict[bytes, int] = {}  # the number of each name's last use
        # From old to new: what is being lost (its oldest name last), uses that were swept, uses that were not.
        self._losing: Use = (0, [])
        self._swept: deque[Use] = deque()
        self._uses: deque[Use] = deque()
        self._number = self._listed = 0
        self._lead = self._references = 0.0
        self.behind = False

    def __len__(self) -> int:
        return len(self._used)

    def compare(self, digests: Sequence[bytes], hits: int) -> None:
        """A request hit ``hits`` blocks of ``digests``; judge by what LRU would have hit.

        What LRU holds of a chain is a run from its head, because tails are older: binary search finds its end.
        """
        would = bisect_left(digests, True, key=lambda digest: digest not in self._used)
        fade = math.exp(-len(digests) / (HORIZON * self._capacity))
        self._lead = self._lead * fade + hits - would
        self._references = self._references * fade + len(digests)
        self.behind = self._lead < -(MARGIN * self._references + SLACK * self._capacity)

    def use(self, digests: list[bytes]) -> None:
        """Blocks with these names, no two the same, were used, children before parents."""
        if not digests or (self._uses and self._uses[-1][1] == digests):
            return
        self._number += 1
        self._used.update(zip(digests, repeat(self._number)))
        self._uses.append((self._number, digests))
        self._listed += len(digests)
        while len(self._used) > self._capacity:
            self._lose(len(self._used) - self._capacity)
        if self._listed > 2 * len(self._used):
            self._sweep(2 * len(digests))

    def _lose(self, most: int) -> None:
        """Forget up to ``most`` of the oldest names."""
        number, names = self._losing
        if not names:
            number, digests = (self._swept or self._uses).popleft()
            names = digests[::-1]
            self._losing = number, names
        for digest in self._live(number, names[-most:]):
            del self._used[digest]
        self._listed -= min(most, len(names))
        del names[-most:]

    def _sweep(self, names: int) -> None:
        """Take what is stale out of the oldest lists that were not swept yet."""
        while names > 0 and len(self._uses) > 1:  # the last one holds nothing stale
            number, digests = self._uses.popleft()
            live = self._live(number, digests)
            if live:
                self._swept.append((number, live))
            self._listed -= len(digests) - len(live)
            names -= len(digests)
        if len(self._uses) <= 1:
            self._swept.extend(self._uses)
            self._uses, self._swept = self._swept, deque()

    def _live(self, number: int, digests: list[bytes]) -> list[bytes]:
        used = self._used
        return [digest for digest in digests if used[digest] == number]
