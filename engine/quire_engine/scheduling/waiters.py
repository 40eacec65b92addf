"""Waiters: sequences whose beginning is being computed already, by this engine or another.

Such a sequence is set aside: it holds no block, batch slot or token budget, and when it comes back it hits. Sequences
that wait for the same blocks are a group. Within this engine nothing need be said for that: a group goes on once the
block it waits for is sealed or its owner gave up. What another engine computes the kvstore knows: the first of a group
waits there (one message), the others with it.

No wait is for ever. The kvstore answers when the blocks are sealed, when they have become this sequence's to
compute, or at the deadline; then, and if the wait fails, the sequence computes its own copy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue

from quire_engine.fairness.slots import branches
from quire_engine.kv.kv_session import KvSession
from quire_engine.sequences.sequence import Sequence
from quire_kv import OK, QuireError, Wait, Waited

from .scheduler import Scheduler

WAIT_S = 60.0
LOOKAHEAD = 64  # waiting sequences looked at in a step


@dataclass(slots=True, eq=False)
class WaitGroup:
    """Sequences that wait for block ``index``, whose digest is ``digest``, or, without digest, for a publication.

    ``waiter``: the member that waits at the kvstore; None if a sequence of this engine is computing the block.
    """

    digest: bytes
    index: int
    waiter: Sequence | None
    members: list[Sequence] = field(default_factory=list)

    def suits(self, sequence: Sequence, missing: int) -> bool:
        """Whether a sequence whose first missing block is ``missing`` lacks the same."""
        if self.waiter is not None and not self.digest:
            theirs, mine = self.waiter.request, sequence.request
            named = (theirs.publication, theirs.publication_generation)
            return named == (mine.publication, mine.publication_generation)
        return (
            missing <= self.index < sequence.chain.blocks
            and sequence.chain.digests(self.index, self.index + 1) == self.digest
        )


class Waiters:
    """The groups of one session.

    Args:
        wake: called on another thread when a wait ended.
    """

    def __init__(self, kv: KvSession, scheduler: Scheduler, wake: Callable[[], None]) -> None:
        self._kv, self._scheduler, self._wake = kv, scheduler, wake
        self._groups: list[WaitGroup] = []
        self._ended: SimpleQueue[tuple[WaitGroup, Waited | QuireError]] = SimpleQueue()

    def select(self, deferred: Container[str]) -> dict[int, int]:
        """Look at the sequences that could be admitted now, and set aside those that had better wait.

        Returns, by arrival number, the tokens each will probably find computed. What is not in it had better not be
        admitted in this step: its tenant is ``deferred``, it begins like one that is admitted, or it was not looked at.
        """
        hits: dict[int, int] = {}
        first: set[bytes] = set()
        left = self._scheduler.slots_left()
        # Those that the kvstore chose to compute come first: others wait for them.
        candidates = islice(self._scheduler.waiting.in_turn(deferred), max(LOOKAHEAD, left)) if left > 0 else ()
        for sequence in sorted(candidates, key=lambda s: not s.registered):
            if left <= 0:
                break
            hit = self._kv.known.hit(sequence)
            if sequence.may_wait and not sequence.registered and self._joins(sequence, hit // self._kv.block_size):
                self._scheduler.set_aside(sequence)
                continue
            key = self._first_missing(sequence, hit // self._kv.block_size)
            if sequence.may_wait and key in first:
                continue
            if key:
                first.add(key)
            hits[sequence.arrival] = hit
            left -= branches(sequence)
        return hits

    def begin(self, sequence: Sequence, index: int) -> None:
        """The kvstore says that another sequence is computing blocks up to ``index`` (-1: the publication)."""
        digest = sequence.chain.digests(index, index + 1) if index >= 0 else b""
        group = WaitGroup(digest, index, sequence, [sequence])
        self._groups.append(group)
        self._scheduler.set_aside(sequence)
        request = sequence.request
        publication = "" if digest else request.publication
        wait = Wait(sequence.id, digest, publication, request.priority, request.publication_generation)
        sequence.asks("wait")
        self._kv.begin_wait(wait, WAIT_S, lambda answer: self._end(group, answer))

    def forget(self, sequence: Sequence) -> None:
        """A sequence that was set aside has ended; those that waited through it ask for themselves."""
        for group in self._groups:
            if group.waiter is sequence:
                group.members.remove(sequence)
                self._close(group)
                return

    def resume(self) -> None:
        """Let those whose wait is over be admitted again."""
        while True:
            try:
                group, answer = self._ended.get_nowait()
            except Empty:
                break
            assert group.waiter is not None, "a wait that was begun"
            state = answer.state if isinstance(answer, Waited) else "deadline"
            group.waiter.answered("wait", OK)
            if group.waiter.ended and state == "yours":
                # It had ended before its wait reached the kvstore: others wait for what it will not compute.
                self._kv.cancel_wait(group.waiter)
            if group in self._groups:
                # One that waited too long computes; those that waited with it may wait for that.
                group.waiter.may_wait = state != "deadline"
                self._close(group)
        for group in [g for g in self._groups if g.waiter is None and self._kv.known.owner(g.digest) is None]:
            self._close(group)

    def _end(self, group: WaitGroup, answer: Waited | QuireError) -> None:
        self._ended.put((group, answer))
        self._wake()

    def _close(self, group: WaitGroup) -> None:
        self._groups.remove(group)
        for sequence in group.members:
            self._scheduler.resume(sequence)

    def _joins(self, sequence: Sequence, missing: int) -> bool:
        """Let a sequence wait in a group, if what it lacks is being computed."""
        for group in self._groups:
            if group.waiter is not None and group.suits(sequence, missing):
                if sequence.request.priority < group.waiter.request.priority:
                    return False  # it is more urgent than the wait that was asked for: it asks itself
                group.members.append(sequence)
                return True
        owner = self._kv.known.owner(self._first_missing(sequence, missing))
        if owner is None:
            return False
        owner.inherited = min(owner.inherited, sequence.request.priority)
        self._group_of(owner, sequence, missing).members.append(sequence)
        return True

    def _group_of(self, owner: Sequence, sequence: Sequence, missing: int) -> WaitGroup:
        """The group that waits for the last block that a sequence of this engine is computing for this one."""
        chain, known = sequence.chain, self._kv.known
        theirs = range(missing, sequence.chain.blocks)
        end = missing + bisect_left(theirs, True, key=lambda i: known.owner(chain.digests(i, i + 1)) is not owner)
        digest = chain.digests(end - 1, end)
        for group in self._groups:
            if group.waiter is None and group.digest == digest:
                return group
        self._groups.append(WaitGroup(digest, end - 1, None))
        return self._groups[-1]

    def _first_missing(self, sequence: Sequence, missing: int) -> bytes:
        """Digest of the first block it would have to compute and could share, or nothing."""
        if missing >= sequence.chain.blocks:
            return b""
        return sequence.chain.digests(missing, missing + 1)
