"""Scheduler: which sequences compute how many tokens in the next step.

There is no prefill or decode phase. Each running sequence has tokens still to be computed; a step takes one from
every decoding sequence and spends what is left of the token budget on prompts, in chunks. So one packed batch mixes
decodes with prefill chunks, and a long prompt never stops the others.

Budget and batch slots are shared by tenants: the next prompt, running or to be admitted, is that of the tenant whose
turn it is (``shares``), and within a tenant it goes by priority and then arrival. When all slots are taken, a tenant
that has more than its portion yields one (``slots``). A request with n continuations is admitted when there is one
slot; for its branches are kept as many as there are, and the other branches wait as sequences of their own.

Whether there is space only the kvstore can say, and it says so in the same message that allocates. A sequence that
cannot be extended costs another one its blocks (preemption by recompute, ``victim``): that waits at its old place in
the queue, and what it had sealed is found in the cache when it comes back. Holding admissions after that keeps the
freed blocks for those that lacked them.

While every running sequence decodes, one step is like the one before: its work is kept and given again, with the blocks
that ``steady_batch`` names, and forgotten when anything happens to the batch.

A sequence whose beginning another one is computing is set *aside*: it takes neither slot nor budget until it can hit
(``waiters``). Whatever it waits for is as urgent as itself. One whose grammar is being compiled is aside as well.

A sequence that another engine offers needs no space: it joins as soon as there is a slot, before all that wait.

Pure logic: no clock, socket or tensor in here.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass

from quire_engine.fairness.shares import Shares
from quire_engine.fairness.slots import branches, slot_donor, slots
from quire_engine.fairness.tenant_queues import TenantQueues, rank
from quire_engine.fairness.turns import Turns
from quire_engine.fairness.victim import victim
from quire_engine.sequences.sequence import Sequence
from quire_engine.sequences.step_plan import StepPlan, Work
from quire_proto.gateway_link import request_id

from .steady_batch import SteadyBatch

HOLD_STEPS = 32
LOGGED_REQUESTS = 64


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Batch slots, token budget of a step, and block size in tokens."""

    max_sequences: int
    max_batch_tokens: int
    block_size: int


class Scheduler:
    """Queues and batch slots of one engine."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.shares = Shares()
        self.waiting = TenantQueues(self.shares)
        self.running: list[Sequence] = []
        self.aside: list[Sequence] = []
        self.offered: list[Sequence] = []
        self.preemptions = 0
        self._hold = 0
        self._again: list[Work] = []
        self._steady: SteadyBatch | None = None

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind its tenant's others of its priority, or where it waits to be adopted."""
        if sequence.handed:
            self.offered.append(sequence)
        else:
            self.waiting.add(sequence)

    def next_offered(self) -> list[Sequence]:
        """The next sequences to adopt, as far as there are slots; they are in no queue afterwards."""
        found, left = list[Sequence](), self.slots_left() if self.offered else 0
        while self.offered and left > 0:
            found.append(self.offered.pop(0))
            found[-1].slots = min(branches(found[-1]), left)
            left -= found[-1].slots
        return found

    def hold(self, sequence: Sequence) -> None:
        """A sequence that is not to be admitted yet; :meth:`resume` queues it."""
        self.aside.append(sequence)

    def holds(self, sequence: Sequence) -> bool:
        """Whether it is aside still."""
        return sequence in self.aside

    def set_aside(self, sequence: Sequence) -> None:
        """A waiting sequence is better not admitted now: another one is computing its beginning."""
        self.waiting.remove(sequence)
        self.aside.append(sequence)

    def resume(self, sequence: Sequence) -> None:
        """A sequence that was set aside may be admitted again, at its old place in the queue."""
        if sequence in self.aside:
            self.aside.remove(sequence)
            self.add(sequence)

    def inherit(self, number: int, priority: int) -> None:
        """A sequence of this priority waits for what the running sequence with this id computes."""
        self._steady = None
        for sequence in self.running:
            if sequence.id == number:
                sequence.inherited = min(sequence.inherited, priority)

    def slots_left(self) -> int:
        """Batch slots that are free."""
        return self.limits.max_sequences - sum(map(slots, self.running))

    def slot_donor(self, deferred: Container[str] = ()) -> Sequence | None:
        """The running sequence that yields a slot now, if one should; ``deferred`` tenants get none."""
        if self._hold or self.offered or not self.waiting or self.slots_left() > 0:
            return None
        heads = [self.waiting.of(tenant)[0] for tenant in self.waiting.tenants() if tenant not in deferred]
        return slot_donor(self.shares, self.running, heads, self.limits.max_sequences)

    def yield_slot(self, sequence: Sequence) -> bool:
        """The sequence yields a slot: one kept for a branch, or, which is answered True, its own: it is preempted."""
        if slots(sequence) > sequence.least_slots:
            sequence.slots -= 1
            return False
        self._preempt(sequence)
        return True

    def plan(self, expected_hit: dict[int, int], may_admit: bool, only: Container[int] | None = None) -> StepPlan:
        """Choose the work of the next step.

        Args:
            expected_hit: tokens a waiting sequence (by arrival number) will likely find computed.
            may_admit: False while the kvstore asked to be left alone about allocations.
            only: waiting sequences (by arrival number) that may be admitted; None: all.
        """
        plan, prompts = self._same_again(), list[Sequence]()
        if plan is None:
            plan, prompts = self._decodes()
        left = self.slots_left() if may_admit and self._may_admit() and self.waiting else 0
        if prompts or left > 0:
            self._share_out(plan, prompts, max(0, left), expected_hit, only)
        return plan

    def _same_again(self) -> StepPlan | None:
        """The work of the step before, if nothing has happened to the batch."""
        needs = self._steady.next(not self._hold) if self._steady else None
        if needs is None:
            return None
        left = self.limits.max_batch_tokens - len(self._again)
        return StepPlan(self._again.copy(), needs.extends, needs.ahead, budget_left=left)

    def _decodes(self) -> tuple[StepPlan, list[Sequence]]:
        """The work of those that decode, and the prompts being computed, by rank. Where the budget is too small for a
        token each, it is shared out as if all were prompts."""
        plan = StepPlan(budget_left=self.limits.max_batch_tokens)
        ranked, prompts = sorted(self.running, key=rank), []
        enough = len(ranked) <= plan.budget_left
        for sequence in ranked:
            if sequence.remaining == 1 and enough:
                self._grant(plan, sequence, plan.budget_left)
            else:
                prompts.append(sequence)
        self._steady = None
        if ranked and not prompts and len(plan.work) == len(ranked):
            self._again, self._steady = plan.work.copy(), SteadyBatch(ranked, self.limits.block_size)
            plan.ahead = self._steady.first(not self._hold).ahead
        return plan, prompts

    def _share_out(
        self,
        plan: StepPlan,
        prompts: list[Sequence],
        left: int,
        expected_hit: dict[int, int],
        only: Container[int] | None,
    ) -> None:
        """Spend the budget on prompts in turn, and ``left`` slots. What is for sequences to be admitted stays
        ``budget_left``."""
        turns, started = Turns(self.shares, prompts, self.waiting if left else None), set(prompts)
        budget = plan.budget_left
        while budget > 0 and (sequence := turns.head()) is not None:
            tenant, cost = sequence.request.tenant, 0
            if sequence in started:
                cost = self._grant(plan, sequence, budget)
            elif not left:
                turns.close(tenant)  # behind its prompts, those that wait for a slot
                continue
            elif only is None or sequence.arrival in only:
                if sequence.least_slots > left:  # what is free is kept for it
                    left = 0
                    continue
                sequence.slots = min(branches(sequence), left)
                left -= sequence.slots
                cost = max(1, len(sequence.tokens) - expected_hit.get(sequence.arrival, 0))
                plan.admits.append(sequence)
            budget -= cost
            turns.next(tenant, cost)
        if not left:  # none that only waits saves up what others use meanwhile
            served = {sequence.request.tenant for sequence in (*prompts, *plan.admits)}
            self.shares.lift(set(self.waiting.tenants()) - served, served)

    def _grant(self, plan: StepPlan, sequence: Sequence, budget: int) -> int:
        """Grant a running sequence what it can use of ``budget``; returns how much that is."""
        count = min(plan.most(sequence), budget)
        if count == 0:
            return 0
        plan.give(sequence, count)
        plan.work.append(Work(sequence, count))
        needed = sequence.launched + count
        if not sequence.writable or needed > len(sequence.table) * self.limits.block_size:
            plan.extends.append((sequence, needed))
        return count

    def _may_admit(self) -> bool:
        if self._hold and self.running:
            self._hold -= 1
            return False
        self._hold = 0
        return True

    def admitted(self, sequence: Sequence, plan: StepPlan) -> None:
        """The kvstore gave the sequence its table: it joins the batch, in this step if budget is left."""
        self._steady = None
        sequence.slot_promised = False
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=lambda s: s.arrival)
        count = plan.most(sequence)
        if count:
            plan.give(sequence, count)
            plan.work.append(Work(sequence, count))

    def decided(self, plan: StepPlan) -> None:
        """The step will be launched as it is, but for what it may do more: prompts get the budget kept for sequences
        that were not admitted. All of it is put to the tenants' accounts."""
        for item in plan.work if plan.admits else ():
            if item.sequence.unscored:
                continue
            table = len(item.sequence.table) * self.limits.block_size - item.sequence.launched
            more = max(0, min(item.sequence.remaining, table, item.count + plan.budget_left) - item.count)
            item.count += more
            plan.budget_left -= more
        spent = Counter[str]()
        for item in plan.work:
            spent[item.sequence.request.tenant] += item.rows
        for tenant, tokens in spent.items():
            self.shares.charge(tenant, tokens)

    def joined(self, sequence: Sequence) -> None:
        """A sequence that has its table runs at once: a forked one, whose slot was kept since admission, or an adopted
        one."""
        self._steady = None
        insort(self.running, sequence, key=lambda s: s.arrival)

    def starved(self, sequence: Sequence, plan: StepPlan, account: str = "") -> Sequence | None:
        """No block for ``sequence``: it skips this step, and a victim is preempted and returned.

        If the shortage is only one ``account``'s, what others give up is no help: then the victim is the tenant's own.
        None if the sequence itself was preempted as another's victim a moment ago.
        """
        self._steady = None
        plan.drop(sequence)
        if sequence not in self.running:
            return None
        tenant = sequence.request.tenant
        gives = victim(self.shares, [s for s in self.running if not account or s.request.tenant == tenant])
        for member in gives.members:
            plan.drop(member)
        self._preempt(gives)
        if not account:
            self._hold = HOLD_STEPS
        return gives

    def _preempt(self, sequence: Sequence) -> None:
        """It waits at its old place, for all of its gang; their blocks are for the caller to give up."""
        self._steady = None
        gang = sequence.members
        for member in gang:
            self.running.remove(member)
        self.preemptions += 1
        self.add(gang[0])

    def dropped(self, sequence: Sequence) -> None:
        """One of a gang that goes on runs no more: what it gives up is for the others."""
        self._steady = None
        self.running.remove(sequence)

    def grown(self) -> None:
        """A running sequence has more than one token to compute."""
        self._steady = None

    def short_ahead(self) -> None:
        """Some block that will be needed soon was not there: look again before each step."""
        self._steady = None

    def remove(self, sequence: Sequence) -> None:
        """The sequence finished or was aborted."""
        if sequence in self.running:
            self._steady = None
            self.running.remove(sequence)
            self._hold = 0
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        elif sequence in self.aside:
            self.aside.remove(sequence)
        elif sequence in self.offered:
            self.offered.remove(sequence)

    def of_request(self, request_id: str) -> list[Sequence]:
        """All live sequences of a request."""
        return [s for s in self.sequences() if s.request.id == request_id]

    def queued(self) -> int:
        """How many of them do not run."""
        return len(self.waiting) + len(self.aside) + len(self.offered)

    def sequences(self) -> list[Sequence]:
        """All live sequences."""
        return [*self.running, *self.waiting, *self.aside, *self.offered]

    def request_ids(self) -> list[str]:
        """Ids of the requests that they are for, for the log: not more of them than can be read there."""
        names = {sequence.request.id for sequence in self.sequences()} - {""}
        return sorted(map(request_id, names))[:LOGGED_REQUESTS]

    def clear(self) -> list[Sequence]:
        """Forget everything; returns what was there."""
        gone = self.sequences()
        self.waiting.clear()
        self.running, self.aside, self.offered, self._hold, self._steady = [], [], [], 0, None
        return gone
