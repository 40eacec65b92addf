"""TenantQueues: the sequences that wait, a queue for each tenant, each by priority and then arrival.

A tenant has a queue, and wants work (``shares``), while one of its sequences waits. Only the scheduler's thread changes
queues; their length may be asked for from another.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Iterator
from heapq import heapify, heappop, heapreplace
from itertools import chain

from quire_engine.sequences.sequence import Sequence

from .shares import Shares


class TenantQueues:
    """Waiting sequences by tenant."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._queues: dict[str, list[Sequence]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._queues.values())

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self.of(sequence.request.tenant)

    def tenants(self) -> list[str]:
        """Tenants that have a queue."""
        return list(self._queues)

    def of(self, tenant: str) -> list[Sequence]:
        """A tenant's queue; not to be changed."""
        return self._queues.get(tenant, [])

    def add(self, sequence: Sequence) -> None:
        """Put a sequence into its place."""
        tenant = sequence.request.tenant
        insort(self._queues.setdefault(tenant, []), sequence, key=rank)
        self._count += 1
        self._shares.join(tenant)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out of its queue."""
        tenant = sequence.request.tenant
        self._queues[tenant].remove(sequence)
        self._count -= 1
        if not self._queues[tenant]:
            del self._queues[tenant]
            self._shares.leave(tenant)

    def clear(self) -> None:
        """Take all out."""
        for sequence in list(self):
            self.remove(sequence)

    def in_turn(self, without: Container[str] = ()) -> Iterator[Sequence]:
        """In the order in which they would be admitted if nothing were computed yet; but tenants ``without``."""
        shares, queues = self._shares, [queue for tenant, queue in self._queues.items() if tenant not in without]
        if len(queues) == 1:
            yield from queues[0]
            return
        firsts = [queue[0] for queue in queues]
        heads = [(not s.slot_promised, shares.counter(s.request.tenant), k, 0) for k, s in enumerate(firsts)]
        heapify(heads)
        while heads:
            _, at, k, index = heads[0]
            sequence = queues[k][index]
            yield sequence
            if index + 1 == len(queues[k]):
                heappop(heads)
            else:
                at += len(sequence.tokens) / shares.weight(sequence.request.tenant)
                heapreplace(heads, (True, at, k, index + 1))


def rank(sequence: Sequence) -> tuple[int, int]:
    """Where a sequence stands among its tenant's: by priority, lower first, then arrival."""
    return (sequence.priority, sequence.arrival)
