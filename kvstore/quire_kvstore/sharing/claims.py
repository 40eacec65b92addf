"""Claims: which sequence is computing which missing blocks, and which wait for them.

A *key* names what is missing: the digest of a block, or a pending publication. A claim is one sequence's run of keys,
in the order in which it will seal them. Others that lack the same keys may wait instead of computing them again.

Invariants:
- a key has at most one claim, and no claim names what is sealed already;
- a holder (session, sequence number) has at most one claim, and does not wait;
- a waiter holds nothing but its place here: no block, no pin, no batch slot. So none can wait for what a waiter has,
  and claims cannot deadlock; the worst that happens to blocks sealed for a waiter is that they are evicted first;
- a claim whose holder gave up, died or made no progress passes to exactly one waiter, the most urgent and then the
  longest waiting. Until that *successor* has allocated (or was refused), the others go on waiting: for it now.

Answers to waits are left in ``answers`` for the caller to send. Times are milliseconds of ``now_ms``, which the store
sets. Each operation costs O(keys or waiters of one claim).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

SEALED, YOURS, DEADLINE, STALE = "sealed", "yours", "deadline", "stale"
NEVER = 1 << 62

Holder = tuple[bytes, int]


def publication_key(identity: str, edition: int) -> bytes:
    """What a pending publication is claimed as; never equal to a digest, for it is not random.

    ``edition`` tells it from others that had its id (``PublishedPrompt.edition``).
    """
    return f"a publication that is not computed yet: {identity} {edition}".encode()


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where an answer goes: a peer of the wire, and the number of its request there."""

    peer: bytes
    number: int


@dataclass(slots=True, eq=False)
class Waiter:
    """One wait. ``end``: how many leading keys of the claim it waits for."""

    holder: Holder
    ticket: Ticket
    end: int
    priority: int
    until_ms: int


@dataclass(slots=True, eq=False)
class Claim:
    """``keys`` that ``holder`` is computing; ``since_ms``: its last progress; ``next``: which key will be sealed next,
    if they are in order."""

    holder: Holder
    keys: list[bytes]
    priority: int
    since_ms: int
    waiters: dict[Holder, Waiter] = field(default_factory=dict)
    next: int = 0

    def end_of(self, key: bytes) -> int:
        """How many keys there are up to this one, itself included."""
        if self.next >= len(self.keys) or self.keys[self.next] != key:
            self.next = self.keys.index(key)
        self.next += 1
        return self.next


class Claims:
    """All claims and waits of a store. ``patience_ms``: how long a claim with waiters may go without a seal.

    Attributes:
        answers: (ticket, state) of waits that ended, in order; the caller takes them out.
        urgent: by session, the priority each of its owners has inherited that is not announced yet.
    """

    def __init__(self, patience_ms: int = 5000) -> None:
        self.patience_ms = patience_ms
        self.now_ms = 0
        self.answers: list[tuple[Ticket, str]] = []
        self.urgent: dict[bytes, dict[int, int]] = {}
        self._by_key: dict[bytes, Claim] = {}
        self._by_holder: dict[Holder, Claim] = {}
        self._waiting: dict[Holder, Claim] = {}
        self._due = NEVER

    # --- reading ------------------------------------------------------------------------------------------------

    def of_key(self, key: bytes) -> Claim | None:
        """The claim on a key."""
        return self._by_key.get(key)

    def of_others(self, key: bytes, holder: Holder) -> Claim | None:
        """The claim of another holder on a key."""
        claim = self._by_key.get(key)
        return None if claim is None or claim.holder == holder else claim

    def untouched(self, keys: list[bytes]) -> bool:
        """Whether none of these keys is claimed."""
        return not self._by_key or self._by_key.keys().isdisjoint(keys)

    def all(self) -> list[Claim]:
        """Every claim."""
        return list(self._by_holder.values())

    def knows(self, holder: Holder) -> bool:
        """Whether ``holder`` waits, or has a claim: its number is in use."""
        return holder in self._waiting or holder in self._by_holder

    @property
    def waits(self) -> int:
        """Number of waits."""
        return len(self._waiting)

    # --- owners -------------------------------------------------------------------------------------------------

    def acquire(self, holder: Holder, keys: list[bytes], priority: int) -> None:
        """``holder`` computes ``keys`` from now on, none of them claimed by another.

        A successor's waiters come along; what they wait for and this claim lacks is theirs to ask for again.
        """
        if holder in self._waiting:
            self._end_wait(holder, DEADLINE)
        old = self._by_holder.get(holder)
        if old is not None:
            self._dissolve(old)
        if keys:
            claim = Claim(holder, keys, priority, self.now_ms)
            self._by_holder[holder] = claim
            self._by_key.update(dict.fromkeys(keys, claim))
        if old is not None:
            for waiter in old.waiters.values():
                self._place(waiter, old.keys[waiter.end - 1])

    def sealed(self, keys: Iterable[bytes]) -> None:
        """These keys are there now, whichever sequence made them: their waiters are answered."""
        if not self._by_key:
            return
        reached: dict[Claim, int] = {}
        for key in keys:
            claim = self._by_key.pop(key, None)
            if claim is not None:
                reached[claim] = max(claim.end_of(key), reached.get(claim, 0))
        for claim, done in reached.items():
            claim.since_ms = self.now_ms
            for waiter in sorted([w for w in claim.waiters.values() if w.end <= done], key=lambda w: w.end):
                self._answer(claim, waiter, SEALED)
            if done == len(claim.keys):
                self._dissolve(claim)

    def leave(self, holder: Holder, state: str = DEADLINE) -> bool:
        """``holder`` gave up: its wait ends in ``state``, its claim passes on. False if it had neither."""
        waited = self._end_wait(holder, state)
        claim = self._by_holder.get(holder)
        if claim is not None:
            self._pass_on(claim)
        return waited or claim is not None

    def leave_session(self, session: bytes) -> None:
        """A session was fenced or is gone."""
        for holder in [h for h in self._waiting if h[0] == session]:
            self._end_wait(holder, STALE)
        for holder in [h for h in self._by_holder if h[0] == session]:
            self.leave(holder)
        self.urgent.pop(session, None)

    def move(self, holder: Holder, to: Holder) -> None:
        """A sequence changed hands, and its claim with it."""
        assert not self.knows(to), "a number in use"
        claim = self._by_holder.pop(holder, None)
        if claim is not None:
            claim.holder = to
            self._by_holder[to] = claim

    # --- waiters ------------------------------------------------------------------------------------------------

    def wait(self, holder: Holder, key: bytes, ticket: Ticket, priority: int, until_ms: int) -> bool:
        """Wait for a key; False if no other sequence is computing it.

        The same number again is a resend: its answer goes to the peer that asked last. Another one ends the first.
        """
        before = self._waiting.get(holder)
        if before is not None and before.waiters[holder].ticket.number == ticket.number:
            before.waiters[holder].ticket = ticket
            return True
        self._end_wait(holder, DEADLINE)
        claim = self.of_others(key, holder)
        if claim is None:
            return False
        own = self._by_holder.get(holder)
        if own is not None:
            self._pass_on(own)  # a successor that rather waits for something else computes nothing meanwhile
        self._join(claim, Waiter(holder, ticket, claim.keys.index(key) + 1, priority, until_ms))
        return True

    def drain_answers(self) -> list[tuple[Ticket, str]]:
        """Waits that ended since the last call, and how."""
        answers, self.answers = self.answers, []
        return answers

    def drain_urgent(self, session: bytes) -> list[tuple[int, int]]:
        """Rows (sequence, priority) of a session's owners that inherited a priority since the last call."""
        return list(self.urgent.pop(session, {}).items()) if self.urgent else []

    def judge(self) -> None:
        """End waits whose time is over; pass claims on that made no progress though others wait."""
        if self.now_ms < self._due:
            return
        for claim in list(self._by_holder.values()):
            for waiter in [w for w in claim.waiters.values() if w.until_ms <= self.now_ms]:
                self._answer(claim, waiter, DEADLINE)
            if claim.waiters and claim.since_ms + self.patience_ms <= self.now_ms:
                self._pass_on(claim)
        self._due = NEVER
        for claim in self._by_holder.values():
            for waiter in claim.waiters.values():
                self._due = min(self._due, waiter.until_ms, claim.since_ms + self.patience_ms)

    def forgive(self, gap_ms: int) -> None:
        """The store stood still for ``gap_ms``: none could make progress."""
        for claim in self._by_holder.values():
            claim.since_ms += gap_ms

    # --- moves --------------------------------------------------------------------------------------------------

    def _join(self, claim: Claim, waiter: Waiter) -> None:
        claim.waiters[waiter.holder] = waiter
        self._waiting[waiter.holder] = claim
        self._due = min(self._due, waiter.until_ms, claim.since_ms + self.patience_ms)
        if waiter.priority < claim.priority:
            claim.priority = waiter.priority
            session, number = claim.holder
            self.urgent.setdefault(session, {})[number] = waiter.priority

    def _answer(self, claim: Claim, waiter: Waiter, state: str) -> None:
        del claim.waiters[waiter.holder]
        del self._waiting[waiter.holder]
        self.answers.append((waiter.ticket, state))

    def _end_wait(self, holder: Holder, state: str) -> bool:
        claim = self._waiting.get(holder)
        if claim is not None:
            self._answer(claim, claim.waiters[holder], state)
        return claim is not None

    def _place(self, waiter: Waiter, key: bytes) -> None:
        """Let a waiter whose claim dissolved wait for ``key`` where it is claimed now; if nowhere, it is its own."""
        claim = self._by_key.get(key)
        if claim is None:
            self.answers.append((waiter.ticket, YOURS))
        else:
            waiter.end = claim.keys.index(key) + 1
            self._join(claim, waiter)

    def _dissolve(self, claim: Claim) -> None:
        """Forget a claim; its waiters, if any, wait for nothing now."""
        del self._by_holder[claim.holder]
        self._forget_keys(claim, claim.keys)
        for waiter in claim.waiters.values():
            del self._waiting[waiter.holder]
        inherited = self.urgent.get(claim.holder[0])
        if inherited is not None:
            inherited.pop(claim.holder[1], None)

    def _forget_keys(self, claim: Claim, keys: list[bytes]) -> None:
        if not self._by_key:
            return  # all were sealed
        for key in keys:
            if self._by_key.get(key) is claim:
                del self._by_key[key]

    def _pass_on(self, claim: Claim) -> None:
        """Make the most urgent waiter the holder; without waiters the claim ends."""
        if not claim.waiters:
            self._dissolve(claim)
            return
        successor = min(claim.waiters.values(), key=lambda waiter: waiter.priority)  # of equals the longest waiting
        self._answer(claim, successor, YOURS)
        del self._by_holder[claim.holder]
        claim.holder, claim.since_ms = successor.holder, self.now_ms
        claim.priority = min([successor.priority, *(waiter.priority for waiter in claim.waiters.values())])
        self._by_holder[successor.holder] = claim
        # The successor's tokens may part from the old owner's where it stopped waiting; it computes no more.
        self._forget_keys(claim, claim.keys[successor.end :])
        del claim.keys[successor.end :]
        for waiter in claim.waiters.values():
            waiter.end = min(waiter.end, successor.end)
