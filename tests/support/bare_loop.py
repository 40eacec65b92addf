"""An engine's loop around a scheduler alone: every step is computed at once, and the kvstore always has space."""

from __future__ import annotations

from array import array
from collections import Counter
from itertools import islice

import numpy as np

from quire_engine.scheduling.scheduler import Scheduler, SchedulerLimits
from quire_engine.sequences.sequence import Request, Sequence
from quire_proto.gateway_link import Sampling
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.u32 import pack_u32

BLOCK, SLOTS, BUDGET = 4, 8, 16


def sequence(tenant: str, arrival: int, prompt: int, answer: int = 8, *, n: int = 1, priority: int = 0) -> Sequence:
    tokens = list(range(prompt))
    request = Request(f"r{arrival}", tenant, pack_u32(tokens), Sampling(answer), n, priority, array("I"), frozenset())
    request.longest = 1 << 20
    return Sequence(0, request, 0, array("I", tokens), DomainChain(b"k", BLOCK, tokens), arrival)


class Loop:
    """An engine's loop around a scheduler, with a kvstore that always has space."""

    def __init__(self, slots: int = SLOTS, budget: int = BUDGET) -> None:
        self.scheduler = Scheduler(SchedulerLimits(slots, budget, BLOCK))
        self.work, self.slots = Counter[str](), Counter[str]()
        self.steps = self._arrivals = 0

    def ask(self, tenant: str, prompt: int, answer: int = 8, *, n: int = 1) -> Sequence:
        """A request that waits."""
        self._arrivals += 1
        asked = sequence(tenant, self._arrivals, prompt, answer, n=n)
        self.scheduler.add(asked)
        return asked

    @property
    def holds(self) -> bool:
        """Admissions are held, so that a shortage passes."""
        return self.scheduler._hold > 0

    def step(self) -> int:
        """One step; the tokens computed."""
        scheduler = self.scheduler
        donor = scheduler.slot_donor()
        if donor is not None and scheduler.yield_slot(donor):
            donor.drop_blocks()
        looked_at = {s.arrival for s in islice(scheduler.waiting.in_turn(), max(0, scheduler.slots_left()))}
        held, wanted = self.holds, scheduler.plan({}, True, looked_at)
        for s, tokens in (*wanted.extends, *wanted.ahead):
            s.table, s.writable = np.zeros(-(-tokens // BLOCK), np.int32), True
        for s in wanted.admits:
            s.table, s.writable = np.zeros(-(-len(s.tokens) // BLOCK), np.int32), True
            scheduler.admitted(s, wanted)
        scheduler.decided(wanted)
        total, left = sum(item.count for item in wanted.work), scheduler.slots_left()
        assert (left >= 0, total <= scheduler.limits.max_batch_tokens) == (True, True)
        idle = left > 0 and total < scheduler.limits.max_batch_tokens and not held
        assert not (idle and scheduler.waiting), "an idle slot"
        self.slots.update(s.request.tenant for s in scheduler.running)
        for item in wanted.work:
            self.work[item.sequence.request.tenant] += item.count
            item.sequence.computed += item.count
            if item.sequence.remaining == 0:
                item.sequence.append(1)
                if item.sequence.generated >= item.sequence.request.sampling.max_tokens:
                    scheduler.remove(item.sequence)
        self.steps += 1
        return total
