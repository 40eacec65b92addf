"""BeladyPolicy: the offline optimum, for replays only: it has read the whole trace.

Evicts the cached block whose next use is furthest away; of equals, the one released first, which is the deeper one.
A block is used whenever its child is, so no parent goes before its child. With requests served one by one nothing
can hit more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush

import numpy as np

from quire_kvstore.blocks.ids import Ids

NEVER = 1 << 62


def uses(requests: Iterable[Sequence[bytes]]) -> dict[bytes, list[int]]:
    """For each digest, the requests that use it, last first."""
    found: dict[bytes, list[int]] = {}
    for number, digests in enumerate(requests):
        for digest in digests:
            found.setdefault(digest, []).append(number)
    for numbers in found.values():
        numbers.reverse()
    return found


class BeladyPolicy:
    """Eviction by next use. ``future`` is consumed: for each digest, the requests that use it, last first."""

    def __init__(self, future: Mapping[bytes, list[int]]) -> None:
        self.now = 0.0
        self.groups: Ids = np.empty(0, np.int64)
        self._future = future
        self._request = -1
        self._order = 0
        self._digest: dict[int, bytes] = {}
        self._entry: dict[int, tuple[int, int, int]] = {}
        self._heap: list[tuple[int, int, int]] = []

    def __len__(self) -> int:
        return len(self._entry)

    def cached(self) -> list[int]:
        """Cached blocks, the next to be evicted first."""
        return [block for _, _, block in sorted(self._entry.values())]

    def arrived(self, digests: Sequence[bytes], hits: int) -> None:
        """The next request of the trace."""
        del digests, hits  # the trace says it all
        self._request += 1

    def sealed(self, block: int, digest: bytes, parent: int | None) -> None:
        """Remember whose future is the block's."""
        del parent  # the future needs no tree
        self._digest[block] = digest

    def sealed_chain(self, blocks: list[int], digests: list[bytes], parent: int | None) -> None:
        """Remember whose futures are the blocks'."""
        del parent  # the future needs no tree
        self._digest.update(zip(blocks, digests, strict=True))

    def anchored(self, block: int) -> None:
        """The future needs no tree."""

    def served(self, blocks: Ids, output_tokens: int) -> None:
        """The future needs no lengths."""

    def released(self, blocks: Ids) -> None:
        """Look up when each is used next."""
        for block in blocks.tolist():
            future = self._future[self._digest[block]]
            while future and future[-1] <= self._request:
                future.pop()
            self._order += 1
            entry = (-(future[-1] if future else NEVER), self._order, block)
            self._entry[block] = entry
            heappush(self._heap, entry)

    def touched(self, blocks: Ids) -> None:
        """The future needs no order."""

    def retained(self, blocks: Ids) -> None:
        """Not evictable while held."""
        for block in blocks.tolist():
            del self._entry[block]

    def victims(self, count: int, group: int = 0) -> list[int]:
        """The ``count`` blocks with the furthest next use."""
        assert group == 0, "a replay has one tenant and no quota"
        assert count <= len(self._entry), "more than is cached"
        chosen: list[int] = []
        while len(chosen) < count:
            entry = heappop(self._heap)
            if self._entry.get(entry[2]) == entry:
                chosen.append(entry[2])
        return chosen

    def regroup(self) -> None:
        """A replay has one group."""

    def dropped(self, blocks: Ids) -> None:
        """Forget them."""
        for block in blocks.tolist():
            self._entry.pop(block, None)
            self._digest.pop(block, None)
