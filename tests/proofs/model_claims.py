"""The naive model of claims: who computes what, who waits for it, and what each wait must be told.

A claim is the list of names that its holder will seal, a pending publication being a name of its own. What is still
``open`` in it nobody has sealed. Every question is answered by walking over all claims.
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
Who = tuple[bytes, int]  # session, sequence number


@dataclass(eq=False)
class Wait:
    """One wait: for ``name``, asked as request ``ticket``."""

    ticket: int
    name: bytes
    priority: int
    until: int


@dataclass(eq=False)
class Claim:
    """What somebody computes, since when without a seal, and who waits, the longest waiting first."""

    names: list[bytes]
    since: int
    open: set[bytes] = field(default_factory=set)
    waits: dict[Who, Wait] = field(default_factory=dict)


class ClaimModel(FullModel):
    """Every operation, and what it does to claims. ``told``: (ticket, state) of waits that must have ended."""

    def __init__(self, size: int, sharing: Sharing, promises: Promises, now: int) -> None:
        super().__init__(size, sharing, promises)
        self.now = now
        self.claims: dict[Who, Claim] = {}
        self.told: list[tuple[int, str]] = []

    # --- reading ----------------------------------------------------------------------------------------------

    def owner(self, name: bytes) -> Who | None:
        """Who computes a name."""
        return next((who for who, claim in self.claims.items() if name in claim.open), None)

    def lack(self, item: m.Allocate) -> list[bytes]:
        """Names that an allocate would have to compute."""
        digests, start = digests_of(item.digests), 0
        if item.publication:
            record = self.sharing.records[item.publication]
            start = min(len(record.tokens) // self.size, len(digests))
            if record.table is None:
                return [record.key, *digests[start:]]
        while start < len(digests) and digests[start] in self.index:
            start += 1
        return digests[start:]

    def waits(self, who: Who) -> bool:
        """Whether a number is waiting, or inherited a claim."""
        return who in self.claims or any(who in claim.waits for claim in self.claims.values())

    # --- what happens to claims -------------------------------------------------------------------------------

    def end(self, who: Who, state: str) -> bool:
        """A wait of ``who`` ends, if there is one."""
        for claim in self.claims.values():
            if who in claim.waits:
                self.told.append((claim.waits.pop(who).ticket, state))
                return True
        return False

    def pass_on(self, who: Who) -> None:
        """An owner gives up: the most urgent waiter, of equals the longest waiting, is the next."""
        claim = self.claims.pop(who)
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

    def left(self, who: Who, state: str = "deadline") -> bool:
        """Whoever it is waits no more and owns nothing."""
        known = self.end(who, state)
        if who in self.claims:
            self.pass_on(who)
            return True
        return known

    def left_all(self, session: bytes) -> None:
        """A session can do nothing any more."""
        for waiting in [w for claim in self.claims.values() for w in claim.waits if w[0] == session]:
            self.end(waiting, "stale")
        for who in [who for who in self.claims if who[0] == session]:
            self.pass_on(who)

    def took(self, who: Who, lack: list[bytes]) -> None:
        """A sequence has its table and computes what nobody else does, up to the first that somebody does."""
        self.end(who, "deadline")
        old = self.claims.pop(who, None)
        names: list[bytes] = []
        for name in lack:
            if name in names or self.owner(name) or name in self.index:
                break
            names.append(name)
        if names:
            self.claims[who] = Claim(names, self.now, set(names))
        for waiter, wait in (old.waits if old else {}).items():
            owner = self.owner(wait.name)
            if owner is None:
                self.told.append((wait.ticket, "yours"))
            else:
                self.claims[owner].waits[waiter] = wait
        self.passed(self.now, 0)

    def made(self, names: set[bytes]) -> None:
        """Names are there now."""
        for who, claim in list(self.claims.items()):
            done = claim.open & names
            if not done:
                continue
            claim.open -= done
            claim.since = self.now
            last = max(claim.names.index(name) for name in done)
            for waiter in [w for w, wait in claim.waits.items() if claim.names.index(wait.name) <= last]:
                self.end(waiter, "sealed")
            if last == len(claim.names) - 1:
                del self.claims[who]

    def wait(self, session: bytes, item: m.Wait, ticket: int, until: int) -> str | None:
        """What a wait is told at once."""
        who, record = (session, item.sequence), self.sharing.present(item.publication, item.publication_generation)
        if item.publication and record is None:
            return "yours"  # its allocate will be told more
        name = item.digest if record is None else record.key
        if name in self.index or (record is not None and record.table is not None):
            return "sealed"
        self.end(who, "deadline")
        owner = self.owner(name)
        if owner is None or owner == who:
            return "yours"
        if who in self.claims:  # a successor that rather waits for something else
            self.pass_on(who)
        self.claims[owner].waits[who] = Wait(ticket, name, item.priority, until)
        self.passed(self.now, 0)  # the owner may be without progress for long
        return None

    # --- the operations ---------------------------------------------------------------------------------------

    def allocated(self, who: bytes, item: m.Allocate, reply: m.Allocated, store: Any) -> None:
        """With claims: who may wait for what another computes gets no table."""
        me, live, refused = (who, item.sequence), item.sequence in self.holders[who].rows, self.refusal(who, item)
        lack = self.lack(item) if refused == m.OK else []
        owner = self.owner(lack[0]) if lack else None
        if not item.tenant and owner not in (None, me):
            assert reply == m.Allocated(m.CONFLICT), "whoever computes for a domain is the only one"
        elif item.may_wait and owner not in (None, me):
            run = next((i for i, name in enumerate(lack) if self.owner(name) != owner), len(lack))
            named = len(lack[0]) != 32
            present = 0 if named else len(item.digests) // 32 - len(lack)
            shared = b"" if named else b"".join(lack[:run])
            assert reply == m.Allocated(m.CLAIMED, computed=present * self.size, claimed=shared), "what is claimed"
        else:
            super().allocated(who, item, reply, store)
        if reply.code == m.OK:
            self.took(me, lack)
        elif not live:
            self.left(me)

    def seal(self, who: bytes, item: m.Seal) -> tuple[int, list[tuple[int, int]]]:
        """What is sealed is nobody's to compute."""
        before = set(self.index)
        answer = super().seal(who, item)
        self.made(set(self.index) - before)
        return answer

    def fill(self, who: bytes, number: int, tokens: int) -> int:
        """A publication that is ready is nobody's to compute."""
        pending = [record for record in self.sharing.records.values() if record.table is None]
        code = super().fill(who, number, tokens)
        self.made({record.key for record in pending if record.table is not None})
        return code

    def free(self, who: bytes, number: int) -> int:
        """A claim passes on; a number without a table ends its wait."""
        known = self.left((who, number))
        code = super().free(who, number)
        return m.OK if known else code

    def gone(self, who: bytes) -> int:
        """All that a session claimed passes on."""
        self.left_all(who)
        return super().gone(who)

    def judge(self, now: int) -> None:
        """Who is fenced or dropped claims nothing."""
        for who, holder in self.holders.items():
            if not holder.fenced and holder.lease_until <= now:
                self.left_all(who)
        super().judge(now)

    def adopted(self, name: bytes, number: int) -> Row:
        """The claim goes with the sequence."""
        source, old, target, _ = self.offers[name]
        if (source, old) in self.claims:
            self.claims[target, number] = self.claims.pop((source, old))
        return super().adopted(name, number)

    def passed(self, now: int, gap: int) -> None:
        """Time passed, and ``gap`` of it counts for nobody: waits end, and claims without progress pass on."""
        self.now = now
        for claim in self.claims.values():
            claim.since += gap
        for who, claim in list(self.claims.items()):
            for waiter in [w for w, wait in claim.waits.items() if wait.until <= now]:
                self.end(waiter, "deadline")
            if claim.waits and claim.since + PATIENCE_MS <= now:
                self.pass_on(who)

    # --- comparing --------------------------------------------------------------------------------------------

    def compare(self, store: Any) -> None:
        """Claims and waits, too."""
        super().compare(store)
        real = {
            claim.holder: {key for key in claim.keys if len(key) == 32 and store.state.claims.of_key(key) is claim}
            for claim in store.state.claims.all()
        }
        assert real == {who: {n for n in c.open if len(n) == 32} for who, c in self.claims.items()}, "claims"
        waits = {w: claim.holder for claim in store.state.claims.all() for w in claim.waiters}
        assert waits == {w: who for who, claim in self.claims.items() for w in claim.waits}, "waits"
