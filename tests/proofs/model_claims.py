"""The naive model of claims: which sequence computes what, which wait for it, and what each wait must be told.

A claim is the list of names that its holder will seal, a pending publication being a name of its own. What is still
``open`` in it is not sealed yet. Every question is answered by walking over all claims.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from quire_proto import messages as m
from tests.proofs.model import Row, digests_of
from tests.proofs.model_moves import FullModel
from tests.proofs.model_quotas import Promises
from tests.proofs.model_sharing import Sharing

PATIENCE_MS = 70
Claimant = tuple[bytes, int]  # session, sequence number: has a claim or waits for one


@dataclass(eq=False)
class Wait:
    """One wait: for ``name``, asked as request ``ticket``."""

    ticket: int
    name: bytes
    priority: int
    until: int


@dataclass(eq=False)
class Claim:
    """What a sequence computes, since when without a seal, and which wait for it, the longest waiting first."""

    names: list[bytes]
    since: int
    open: set[bytes] = field(default_factory=set)
    waits: dict[Claimant, Wait] = field(default_factory=dict)


class ClaimModel(FullModel):
    """Every operation, and what it does to claims. ``told``: (ticket, state) of waits that must have ended."""

    def __init__(self, size: int, sharing: Sharing, promises: Promises, now: int) -> None:
        super().__init__(size, sharing, promises)
        self.now = now
        self.claims: dict[Claimant, Claim] = {}
        self.told: list[tuple[int, str]] = []

    # --- reading ----------------------------------------------------------------------------------------------

    def owner(self, name: bytes) -> Claimant | None:
        """The sequence that computes a name."""
        return next((claimant for claimant, claim in self.claims.items() if name in claim.open), None)

    def lack(self, item: m.Allocate) -> list[bytes]:
        """Names that an allocate would have to compute."""
        digests, start = digests_of(item.digests), 0
        if item.publication:
            publication = self.sharing.publications[item.publication]
            start = min(len(publication.tokens) // self.size, len(digests))
            if publication.table is None:
                return [publication.key, *digests[start:]]
        while start < len(digests) and digests[start] in self.index:
            start += 1
        return digests[start:]

    def waits(self, claimant: Claimant) -> bool:
        """Whether a number is waiting, or inherited a claim."""
        return claimant in self.claims or any(claimant in claim.waits for claim in self.claims.values())

    # --- what happens to claims -------------------------------------------------------------------------------

    def end(self, claimant: Claimant, state: str) -> bool:
        """Its wait ends, if there is one."""
        for claim in self.claims.values():
            if claimant in claim.waits:
                self.told.append((claim.waits.pop(claimant).ticket, state))
                return True
        return False

    def pass_on(self, claimant: Claimant) -> None:
        """An owner gives up: the most urgent waiter, of equals the longest waiting, is the next."""
        claim = self.claims.pop(claimant)
        if not claim.waits:
            return
        successor = min(claim.waits, key=lambda waiter: claim.waits[waiter].priority)
        mine = claim.waits.pop(successor)
        self.told.append((mine.ticket, "yours"))
        end = claim.names.index(mine.name) + 1
        for wait in claim.waits.values():
            if wait.name not in claim.names[:end]:
                wait.name = mine.name
        claim.names = claim.names[:end]
        claim.open &= set(claim.names)
        claim.since = self.now
        self.claims[successor] = claim

    def left(self, claimant: Claimant, state: str = "deadline") -> bool:
        """It waits no more and owns nothing."""
        known = self.end(claimant, state)
        if claimant in self.claims:
            self.pass_on(claimant)
            return True
        return known

    def left_all(self, session: bytes) -> None:
        """A session can do nothing any more."""
        for waiting in [w for claim in self.claims.values() for w in claim.waits if w[0] == session]:
            self.end(waiting, "stale")
        for claimant in [claimant for claimant in self.claims if claimant[0] == session]:
            self.pass_on(claimant)

    def took(self, claimant: Claimant, lack: list[bytes]) -> None:
        """A sequence has its table and computes what no other does, up to the first that another does."""
        self.end(claimant, "deadline")
        old = self.claims.pop(claimant, None)
        names: list[bytes] = []
        for name in lack:
            if name in names or self.owner(name) or name in self.index:
                break
            names.append(name)
        if names:
            self.claims[claimant] = Claim(names, self.now, set(names))
        for waiter, wait in (old.waits if old else {}).items():
            owner = self.owner(wait.name)
            if owner is None:
                self.told.append((wait.ticket, "yours"))
            else:
                self.claims[owner].waits[waiter] = wait
        self.passed(self.now, 0)

    def made(self, names: set[bytes]) -> None:
        """Names are there now."""
        for claimant, claim in list(self.claims.items()):
            done = claim.open & names
            if not done:
                continue
            claim.open -= done
            claim.since = self.now
            last = max(claim.names.index(name) for name in done)
            for waiter in [w for w, wait in claim.waits.items() if claim.names.index(wait.name) <= last]:
                self.end(waiter, "sealed")
            if last == len(claim.names) - 1:
                del self.claims[claimant]

    def wait(self, session: bytes, item: m.Wait, ticket: int, until: int) -> str | None:
        """What a wait is told at once."""
        claimant = session, item.sequence
        publication = self.sharing.present(item.publication, item.publication_generation)
        if item.publication and publication is None:
            return "yours"  # its allocate will be told more
        name = item.digest if publication is None else publication.key
        if name in self.index or (publication is not None and publication.table is not None):
            return "sealed"
        self.end(claimant, "deadline")
        owner = self.owner(name)
        if owner is None or owner == claimant:
            return "yours"
        if claimant in self.claims:  # a successor that rather waits for something else
            self.pass_on(claimant)
        self.claims[owner].waits[claimant] = Wait(ticket, name, item.priority, until)
        self.passed(self.now, 0)  # the owner may be without progress for long
        return None

    # --- the operations ---------------------------------------------------------------------------------------

    def allocated(self, session: bytes, item: m.Allocate, reply: m.Allocated, store: Any) -> None:
        """With claims: a request that may wait for what another computes gets no table."""
        me, live = (session, item.sequence), item.sequence in self.holders[session].rows
        refused = self.refusal(session, item)
        lack = self.lack(item) if refused == m.OK else []
        owner = self.owner(lack[0]) if lack else None
        if not item.tenant and owner not in (None, me):
            assert reply == m.Allocated(m.CONFLICT), "what is computed for a domain is computed once"
        elif item.may_wait and owner not in (None, me):
            run = next((i for i, name in enumerate(lack) if self.owner(name) != owner), len(lack))
            named = len(lack[0]) != 32
            present = 0 if named else len(item.digests) // 32 - len(lack)
            shared = b"" if named else b"".join(lack[:run])
            assert reply == m.Allocated(m.CLAIMED, computed=present * self.size, claimed=shared), "what is claimed"
        else:
            super().allocated(session, item, reply, store)
        if reply.code == m.OK:
            self.took(me, lack)
        elif not live:
            self.left(me)

    def seal(self, session: bytes, item: m.Seal) -> tuple[int, list[tuple[int, int]]]:
        """What is sealed is claimed no more."""
        before = set(self.index)
        answer = super().seal(session, item)
        self.made(set(self.index) - before)
        return answer

    def fill(self, session: bytes, number: int, tokens: int) -> int:
        """A publication that is ready is claimed no more."""
        pending = [p for p in self.sharing.publications.values() if p.table is None]
        code = super().fill(session, number, tokens)
        self.made({p.key for p in pending if p.table is not None})
        return code

    def free(self, session: bytes, number: int) -> int:
        """A claim passes on; a number without a table ends its wait."""
        known = self.left((session, number))
        code = super().free(session, number)
        return m.OK if known else code

    def gone(self, session: bytes) -> int:
        """All that a session claimed passes on."""
        self.left_all(session)
        return super().gone(session)

    def judge(self, now: int) -> None:
        """A session that is fenced or dropped claims nothing."""
        for session, holder in self.holders.items():
            if not holder.fenced and holder.lease_until <= now:
                self.left_all(session)
        super().judge(now)

    def adopted(self, name: bytes, number: int) -> Row:
        """The claim goes with the sequence."""
        source, old, target, _ = self.offers[name]
        if (source, old) in self.claims:
            self.claims[target, number] = self.claims.pop((source, old))
        return super().adopted(name, number)

    def passed(self, now: int, gap: int) -> None:
        """Time passed, and ``gap`` of it does not count: waits end, and claims without progress pass on."""
        self.now = now
        for claim in self.claims.values():
            claim.since += gap
        for claimant, claim in list(self.claims.items()):
            for waiter in [w for w, wait in claim.waits.items() if wait.until <= now]:
                self.end(waiter, "deadline")
            if claim.waits and claim.since + PATIENCE_MS <= now:
                self.pass_on(claimant)

    # --- comparing --------------------------------------------------------------------------------------------

    def compare(self, store: Any) -> None:
        """Claims and waits, too."""
        super().compare(store)
        real = {
            claim.holder: {key for key in claim.keys if len(key) == 32 and store.state.claims.of_key(key) is claim}
            for claim in store.state.claims.all()
        }
        assert real == {claimant: {n for n in c.open if len(n) == 32} for claimant, c in self.claims.items()}, "claims"
        waits = {w: claim.holder for claim in store.state.claims.all() for w in claim.waiters}
        assert waits == {w: claimant for claimant, claim in self.claims.items() for w in claim.waits}, "waits"
