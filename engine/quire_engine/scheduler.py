"""Scheduler: which sequences compute how many tokens in the next step.

There is no prefill or decode phase. Each running sequence has tokens still to be computed; a step takes one from
every decoding sequence and spends what is left of the token budget on prompts, by priority and then arrival, in chunks.
So one packed batch mixes decodes with prefill chunks, and a long prompt never stops the others.

Waiting sequences are admitted while batch slots and budget remain; whether there is memory only the kvstore can say,
and it says so in the same message that allocates. A sequence that cannot be extended costs the newest sequence of
the lowest priority its blocks (preemption by recompute): it waits at its old place in the queue, and what it had
sealed is found in the cache when it comes back. Holding admissions after a preemption keeps the freed blocks for
those who lacked them.

While every running sequence decodes, one step is like the one before: its work is kept and given again, with the blocks
that ``lookahead`` names, and forgotten when anything happens to the batch.

A sequence whose beginning another one is computing is set *aside*: it takes neither slot nor budget until it can hit
(``waiting``). Whatever it waits for is as urgent as itself.

Pure logic: no clock, socket or tensor in here.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Container
from dataclasses import dataclass, field

from .lookahead import SteadyBatch
from .request import Request, Sequence

HOLD_STEPS = 32


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Batch slots, token budget of a step, and block size in tokens."""

    max_sequences: int
    max_batch_tokens: int
    block_size: int


@dataclass(slots=True)
class Work:
    """``count`` tokens of one sequence in this step."""

    sequence: Sequence
    count: int


@dataclass(slots=True)
class Wanted:
    """What the next step would compute, what it needs from the kvstore for that, and what steps after it will."""

    work: list[Work] = field(default_factory=list)
    extends: list[tuple[Sequence, int]] = field(default_factory=list)
    ahead: list[tuple[Sequence, int]] = field(default_factory=list)
    admits: list[Sequence] = field(default_factory=list)
    budget_left: int = 0


class Scheduler:
    """Queues and batch slots of one engine."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.aside: list[Sequence] = []
        self.preemptions = 0
        self._hold = 0
        self._again: list[Work] = []
        self._steady: SteadyBatch | None = None

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence by priority, then arrival."""
        insort(self.waiting, sequence, key=_rank)

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
        """Somebody of this priority waits for what the running sequence with this id computes."""
        self._steady = None
        for sequence in self.running:
            if sequence.id == number:
                sequence.inherited = min(sequence.inherited, priority)

    def slots_left(self) -> int:
        """Batch slots that nobody uses."""
        return self.limits.max_sequences - sum(map(slots, self.running))

    def plan(self, expected_hit: dict[int, int], may_admit: bool, held_back: Container[int] = ()) -> Wanted:
        """Choose the work of the next step.

        Args:
            held_back: waiting sequences (by arrival number) that are not admitted in this step.
            expected_hit: tokens a waiting sequence (by arrival number) will likely find computed.
            may_admit: False while the kvstore asked to be left alone about allocations.
        """
        wanted = self._same_again() or self._choose_work()
        if may_admit and self._may_admit():
            self._choose_admits(wanted, expected_hit, held_back)
        return wanted

    def _same_again(self) -> Wanted | None:
        """The work of the step before, if nothing has happened to the batch."""
        needs = self._steady.next(not self._hold) if self._steady else None
        if needs is None:
            return None
        left = self.limits.max_batch_tokens - len(self._again)
        return Wanted(self._again.copy(), needs.extends, needs.ahead, budget_left=left)

    def _choose_work(self) -> Wanted:
        wanted = Wanted(budget_left=self.limits.max_batch_tokens)
        ranked, prompts = sorted(self.running, key=_rank), []
        for sequence in ranked:
            if sequence.remaining == 1:
                self._take(wanted, sequence)
            else:
                prompts.append(sequence)
        for sequence in prompts:
            self._take(wanted, sequence)
        self._steady = None
        if ranked and not prompts and len(wanted.work) == len(ranked):
            self._again, self._steady = wanted.work.copy(), SteadyBatch(ranked, self.limits.block_size)
            wanted.ahead = self._steady.first(not self._hold).ahead
        return wanted

    def _take(self, wanted: Wanted, sequence: Sequence) -> None:
        count = min(sequence.remaining, wanted.budget_left)
        if count == 0:
            return
        wanted.budget_left -= count
        wanted.work.append(Work(sequence, count))
        needed = sequence.launched + count
        if not sequence.writable or needed > len(sequence.table) * self.limits.block_size:
            wanted.extends.append((sequence, needed))

    def _may_admit(self) -> bool:
        if self._hold and self.running:
            self._hold -= 1
            return False
        self._hold = 0
        return True

    def _choose_admits(self, wanted: Wanted, expected_hit: dict[int, int], held_back: Container[int]) -> None:
        left, budget = self.slots_left(), wanted.budget_left
        for sequence in self.waiting:
            if sequence.arrival in held_back:
                continue
            left -= slots(sequence)
            if left < 0 or budget <= 0:
                return
            budget -= max(1, len(sequence.tokens) - expected_hit.get(sequence.arrival, 0))
            wanted.admits.append(sequence)

    def admitted(self, sequence: Sequence, wanted: Wanted) -> None:
        """The kvstore gave the sequence its table: it joins the batch, in this step if budget is left."""
        self._steady = None
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=lambda s: s.arrival)
        count = min(sequence.remaining, wanted.budget_left)
        if count:
            wanted.budget_left -= count
            wanted.work.append(Work(sequence, count))

    def joined(self, sequence: Sequence) -> None:
        """A forked sequence runs at once; its batch slot was kept since admission."""
        self._steady = None
        insort(self.running, sequence, key=lambda s: s.arrival)

    def refused(self, sequence: Sequence, wanted: Wanted, account: str = "") -> Sequence | None:
        """No block for ``sequence``: it skips this step, and a victim is preempted and returned.

        If the shortage is only one ``account``'s, what others give up is no help: then the victim is the tenant's own.
        None if the sequence itself was preempted as another's victim a moment ago.
        """
        self._steady = None
        _drop(wanted, sequence)
        if sequence not in self.running:
            return None
        tenant = sequence.request.tenant
        victim = max((s for s in self.running if not account or s.request.tenant == tenant), key=_rank)
        _drop(wanted, victim)
        self.running.remove(victim)
        self.preemptions += 1
        if not account:
            self._hold = HOLD_STEPS
        self.add(victim)
        return victim

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

    def of_request(self, request_id: str) -> list[Sequence]:
        """All live sequences of a request."""
        return [s for s in (*self.running, *self.waiting, *self.aside) if s.request.id == request_id]

    def clear(self) -> list[Sequence]:
        """Forget everything; returns what was there."""
        gone = [*self.running, *self.waiting, *self.aside]
        self.running, self.waiting, self.aside, self._hold, self._steady = [], [], [], 0, None
        return gone


def _rank(sequence: Sequence) -> tuple[int, int]:
    return (sequence.priority, sequence.arrival)


def slots(sequence: Sequence) -> int:
    """Batch slots a sequence takes: one for each continuation it stands for until its request forks."""
    request: Request = sequence.request
    return 1 if request.forked else request.n


def _drop(wanted: Wanted, sequence: Sequence) -> None:
    wanted.work = [work for work in wanted.work if work.sequence is not sequence]
