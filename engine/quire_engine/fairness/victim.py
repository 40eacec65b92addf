"""Victim: which running sequence gives its blocks up when another one cannot grow.

It is preempted and computed again later, from what the cache kept. What no client waits for goes first. Then it is the
newest, of the lowest priority, of the tenant that holds most blocks by weight: priorities and ages of one tenant's
sequences say nothing about another's.

Invariant: among several tenants the oldest sequence of all is never the victim, so in any shortage some sequence gets
to its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from quire_engine.sequences.sequence import BACKGROUND, Sequence

from .shares import Shares
from .tenant_queues import rank


def victim(shares: Shares, candidates: Collection[Sequence]) -> Sequence:
    """The one of ``candidates``, at least one, that gives its blocks up."""
    newest = max(candidates, key=rank)
    held = Counter[str]()
    for sequence in candidates:
        held[sequence.request.tenant] += len(sequence.table) - sequence.behind
    if len(held) == 1 or newest.priority >= BACKGROUND:
        return newest
    oldest = min(candidates, key=lambda s: s.arrival)
    others = [s for s in candidates if s.arrival != oldest.arrival]
    tenants = {s.request.tenant for s in others}
    most = max(sorted(tenants), key=lambda tenant: held[tenant] / shares.weight(tenant))
    return max((s for s in others if s.request.tenant == most), key=rank)
