"""Lines: the sequences that wait, a line for each tenant, each by priority and then arrival.

A tenant has a line, and wants work (``shares``), while one of its sequences waits. Only the scheduler's thread changes
lines; their length may be asked for from another.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Iterator
from heapq import heapify, heappop, heapreplace
from itertools import chain

from quire_engine.sequences.sequence import Sequence

from .shares import Shares


class Lines:
    """Waiting sequences by tenant."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._lines: dict[str, list[Sequence]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._lines.values())

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self.of(sequence.request.tenant)

    def tenants(self) -> list[str]:
        """Tenants that have a line."""
        return list(self._lines)

    def of(self, tenant: str) -> list[Sequence]:
        """A tenant's line; not to be changed."""
        return self._lines.get(tenant, [])

    def add(self, sequence: Sequence) -> None:
        """Put a sequence into its place."""
        tenant = sequence.request.tenant
        insort(self._lines.setdefault(tenant, []), sequence, key=rank)
        self._count += 1
        self._shares.join(tenant)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out of its line."""
        tenant = sequence.request.tenant
        self._lines[tenant].remove(sequence)
        self._count -= 1
        if not self._lines[tenant]:
            del self._lines[tenant]
            self._shares.leave(tenant)

    def clear(self) -> None:
        """Take all out."""
        for sequence in list(self):
            self.remove(sequence)

    def in_turn(self, without: Container[str] = ()) -> Iterator[Sequence]:
        """In the order in which they would be admitted if nothing were computed yet; but tenants ``without``."""
        shares, lines = self._shares, [line for tenant, line in self._lines.items() if tenant not in without]
        if len(lines) == 1:
            yield from lines[0]
            return
        heads = [(not line[0].favoured, shares.counter(line[0].request.tenant), k, 0) for k, line in enumerate(lines)]
        heapify(heads)
        while heads:
            _, at, k, index = heads[0]
            sequence = lines[k][index]
            yield sequence
            if index + 1 == len(lines[k]):
                heappop(heads)
            else:
                at += len(sequence.tokens) / shares.weight(sequence.request.tenant)
                heapreplace(heads, (True, at, k, index + 1))


def rank(sequence: Sequence) -> tuple[int, int]:
    """Where a sequence stands among its tenant's: by priority, lower first, then arrival."""
    return (sequence.priority, sequence.arrival)
