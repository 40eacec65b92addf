"""Turns: in which order the prompts of several tenants are computed in a step.

Each tenant's are a queue: first those that run, then, if any may be admitted, those in its queue. The next one is that
of the tenant whose turn it is, counting what it was promised in this step; but a slot that was given up for a sequence
is that sequence's. What belongs to no tenant goes last, or first if a request waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from quire_engine.sequences.sequence import BACKGROUND, Sequence

from .shares import Shares
from .tenant_queues import TenantQueues


class Turns:
    """The queues of one step.

    Args:
        running: prompts that run, in the order of their tenants' wishes.
        waiting: queues to admit from, None if there is nothing to admit.
    """

    def __init__(self, shares: Shares, running: Iterable[Sequence], waiting: TenantQueues | None) -> None:
        self._shares = shares
        self._promised = Counter[str]()
        started: dict[str, list[Sequence]] = {}
        for sequence in running:
            started.setdefault(sequence.request.tenant, []).append(sequence)
        queued = {tenant: waiting.of(tenant) for tenant in waiting.tenants()} if waiting else {}
        self._queues: dict[str, Iterator[Sequence]] = {
            tenant: chain(started.get(tenant, ()), queued.get(tenant, ())) for tenant in {**queued, **started}
        }
        self._heads: dict[str, Sequence] = {}
        for tenant in tuple(self._queues):
            self.next(tenant)

    def head(self) -> Sequence | None:
        """The first of the tenant whose turn it is; None at the end."""
        heads = self._heads
        if not heads:
            return None
        untenanted = heads.get("")  # a publication's prefill
        if untenanted is not None and (len(heads) == 1 or untenanted.priority < BACKGROUND):
            return untenanted
        if len(heads) == 1:
            return next(iter(heads.values()))
        if promised := next((head for head in heads.values() if head.slot_promised), None):
            return promised
        return heads[self._shares.turn((tenant for tenant in heads if tenant), self._promised)]

    def next(self, tenant: str, promised: int = 0) -> None:
        """The tenant's first has been dealt with, and was promised so many tokens."""
        self._promised[tenant] += promised
        head = next(self._queues[tenant], None)
        if head is None:
            self._heads.pop(tenant, None)
        else:
            self._heads[tenant] = head

    def close(self, tenant: str) -> None:
        """There is nothing more for this tenant."""
        del self._heads[tenant]
