"""Slots: which sequence yields its batch slot to which, when all are taken.

A tenant that has fewer than its portion of the slots, by weight among the tenants that have work, need not wait until
another one's long answers end: one that has more than its portion yields a slot. That costs little: a slot kept for
a branch not forked yet costs nothing, and a preempted sequence finds what it had sealed in the cache.

Invariants: the donor keeps its portion, rounded down, and the claimant has no more than its own, so no slot goes to and
fro; a sequence is made room for once, so that one for which there is no memory does not empty the batch; a prompt that
others wait for is not preempted. A gang yields all its slots or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from quire_engine.sequences.sequence import NO_WAITER, Sequence

from .shares import Shares
from .tenant_queues import rank


def slots(sequence: Sequence) -> int:
    """Batch slots that a running sequence takes: until its request forks, those kept for branches, too."""
    return 1 if sequence.request.forked else sequence.slots


def branches(sequence: Sequence) -> int:
    """Batch slots that a waiting sequence can make use of: one for each continuation that it will be forked into."""
    return 1 if sequence.request.forked else sequence.request.n


def used(running: Iterable[Sequence]) -> Counter[str]:
    """Slots taken, by tenant."""
    taken: Counter[str] = Counter()
    for sequence in running:
        taken[sequence.request.tenant] += slots(sequence)
    return taken


def slot_donor(shares: Shares, running: list[Sequence], heads: Iterable[Sequence], size: int) -> Sequence | None:
    """The running sequence that yields a slot to one of ``heads``, the first of each tenant's queue, if one should.

    All ``size`` slots are taken. The head for which it is done has its slot promised by now.
    """
    waiting = {head.request.tenant: head for head in heads if head.request.tenant}
    taken = used(running)
    if not waiting or (len(taken) == 1 and taken.keys() == waiting.keys()):
        return None
    portions = shares.portions(taken.keys() | waiting.keys(), size)
    above = [name for name in taken if taken[name] > max(1.0, portions[name])]
    if not above:
        return None
    most = max(above, key=lambda name: taken[name] / shares.weight(name))
    claimants = [
        name for name, head in waiting.items() if taken[name] + 1 <= max(1.0, portions[name]) and not head.slot_promised
    ]
    spare = taken[most] - int(portions[most])
    found = [
        s
        for s in running
        if s.request.tenant == most
        and (s.inherited == NO_WAITER or s.remaining == 1)
        and (s.least_slots == 1 or s.least_slots <= spare)
    ]
    if not claimants or not found:
        return None
    waiting[shares.turn(claimants)].slot_promised = True
    return max(found, key=lambda s: (s.least_slots == 1, slots(s) > 1, s.remaining == 1, rank(s)))
