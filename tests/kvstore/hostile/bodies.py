"""What a client says that keeps none of the protocol's rules.

Numbers, digests, publications and offers come from a universe so small that sessions meet in it all the time, and about
half of a request fits the state of the store, so that it has an effect. No digest of the tenant ``i`` is ever sealed:
that tenant is innocent, and what it finds under its names must be its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import Session
from quire_kvstore.state import State
from quire_proto import messages as m
from quire_proto.messages import handoff as h
from quire_proto.messages import sharing as a
from quire_proto.messages.tenants import SetQuota
from quire_proto.wire.digests import chain, domain_key, split
from quire_proto.wire.u32 import U32_MAX, pack_u32
from tests.support.driver import key_of

SIZE, NUMBERS = 2, 6
ROOT_KEY = bytes(32)
INNOCENT = "i"
TENANTS, GROUPS, IDS = ("a", "b", "c"), ("public", "g", "quarantine"), ("p", "q")
PROMPTS = ([0] * 8, [0, 0, 0, 0, 1, 1, 1, 1], [1] * 8)
NO_SESSION = Session(b"", b"", "", None, 0)


def digests_of(tenant: str, prompt: list[int], blocks: int) -> list[bytes]:
    """The first digests of a prompt."""
    return split(chain(key_of(tenant), prompt[: blocks * SIZE], SIZE))


class Bodies:
    """Bodies of requests, by what the store has now."""

    def __init__(self, chance: random.Random, state: State) -> None:
        self._random, self._state = chance, state
        published = chain(domain_key(ROOT_KEY, "group:public", 1), PROMPTS[0], SIZE)
        self._made_up = [bytes(32), *(bytes([65 + i]) * 32 for i in range(4)), *split(published)]

    def ordered(self, session: Session | None, others: list[bytes]) -> tuple[str, Any]:
        """An op of a session with a number; ``others``: ids of sessions, dead ones too."""
        own, chance = session or NO_SESSION, self._random
        kind = chance.random()
        if kind < 0.5:
            return "step", self._step(own, others)
        if kind < 0.68:
            return "allocate", self._allocate()
        if kind < 0.72:
            return "extend", m.Extend(self._number(), chance.randrange(1, 20))
        if kind < 0.78:
            return "fork", self._fork(own)
        if kind < 0.82:
            return "seal", self._seal(own)
        if kind < 0.88:
            return "free", m.Free(pack_u32(self._number() for _ in range(chance.randrange(1, 4))))
        if kind < 0.94:
            return "offer", self._offer(others)
        if kind < 0.99:
            return "adopt", self._adopt(own)
        return "detach", m.Empty()

    def wait(self, session: Session | None) -> m.Wait:
        """For whatever another computes, or none; one that inherited a claim may wait as well."""
        chance, claims = self._random, self._state.claims.all()
        claimed = [key for claim in claims for key in claim.keys if len(key) == 32]
        priority = self._priority()
        if chance.random() < 0.2:
            identity = chance.choice(IDS)
            return m.Wait(self._number(), b"", identity, priority, self._generation(identity))
        own = session or NO_SESSION
        successors = [
            n for owner, n in (claim.holder for claim in claims) if owner == own.id and n not in own.sequences
        ]
        number = chance.choice(successors) if successors and chance.random() < 0.7 else self._number()
        return m.Wait(number, chance.choice(claimed or self._made_up), "", priority)

    def administration(self) -> tuple[str, Any]:
        """A declaration."""
        chance = self._random
        tenant, group = chance.choice((*TENANTS, INNOCENT)), chance.choice(GROUPS)
        tokens = pack_u32(chance.choice(PROMPTS)[: chance.randrange(0, 7)])
        guarantee = chance.choice((0, 0, 1, 2))
        limit = chance.choice((0, guarantee, guarantee + 1, 3, self._state.pool.size))
        body: Any = chance.choice(
            (
                a.Publish(chance.choice(IDS), group, tokens, chance.choice(("", "", tenant))),
                a.Unpublish(chance.choice(IDS)),
                a.Join(tenant, group),
                a.Leave(tenant, group),
                SetQuota(tenant, 0 if tenant == INNOCENT else limit, guarantee, chance.choice((1, 100))),
            )
        )
        return {SetQuota: "quota"}.get(type(body), type(body).__name__.lower()), body

    # --- sections -------------------------------------------------------------------------------------------------

    def _step(self, own: Session, others: list[bytes]) -> m.Step:
        chance = self._random
        completed, names = self._completed(own)
        return m.Step(
            releases=pack_u32(self._number() for _ in range(chance.randrange(2))),
            copies_done=pack_u32(c for c in [*own.copies, chance.randrange(5)] if chance.random() < 0.5),
            swaps=self._swaps(own),
            fills=self._rows(own, lambda q: (chance.randint(q.fill, q.writable) if q else 3,)),
            seals=tuple(self._seal(own) for _ in range(chance.randrange(3))),
            completed=completed,
            completed_digests=names,
            forks=tuple(self._fork(own) for _ in range(chance.randrange(2))),
            extends=self._rows(own, lambda q: ((q.writable if q else 0) + chance.randrange(1, 4),)),
            allocates=tuple(self._allocate() for _ in range(chance.randrange(3))),
            offers=tuple(self._offer(others) for _ in range(max(0, chance.randrange(-20, 3)))),
            adopts=tuple(self._adopt(own) for _ in range(max(0, chance.randrange(-20, 3)))),
        )

    def _rows(self, own: Session, rest: Callable[[Sequence | None], tuple[int, ...]]) -> bytes:
        rows: list[int] = []
        for _ in range(self._random.randrange(4)):
            number = self._number()
            rows += (number, *rest(own.sequences.get(number)))
        return pack_u32(rows)

    def _allocate(self) -> m.Allocate:
        chance = self._random
        tenant, prompt, blocks = chance.choice((*TENANTS, INNOCENT)), chance.choice(PROMPTS), chance.randrange(5)
        names = digests_of(tenant, prompt, blocks)
        if tenant != INNOCENT and chance.random() < 0.15:
            names = [chance.choice(self._made_up) for _ in names]
        whole = self._state.pool.size * SIZE
        tokens = blocks * SIZE + chance.randrange(3) if chance.random() < 0.95 else chance.choice((0, whole))
        identity = chance.choice(("", "", "", *IDS))
        record = self._state.publications.get(identity)
        if record is not None:
            tokens = max(tokens, record.count)
            if chance.random() < 0.3:
                tenant, names, tokens = "", [], record.count
        return m.Allocate(
            sequence=self._number(),
            tenant=tenant,
            tokens=tokens,
            digests=b"".join(names),
            publication=identity,
            publication_generation=self._generation(identity),
            reserve=min(chance.choice((0, 0, tokens + 3)), whole),
            priority=self._priority(),
            may_wait=chance.randrange(2),
        )

    def _seal(self, own: Session) -> m.Seal:
        number = self._number()
        sequence = own.sequences.get(number)
        first = sequence.sealed if sequence and self._random.random() < 0.8 else self._random.randrange(4)
        full = sequence.fill // SIZE - first if sequence else 1
        return m.Seal(number, first, b"".join(self._names(sequence, first, self._random.randint(0, max(full, 0)))))

    def _completed(self, own: Session) -> tuple[bytes, bytes]:
        rows, names = list[int](), list[bytes]()
        for _ in range(self._random.randrange(4)):
            number = self._number()
            sequence = own.sequences.get(number)
            index = sequence.sealed if sequence and self._random.random() < 0.9 else self._random.randrange(4)
            rows += (number, index, (index + 1) * SIZE)
            names += self._names(sequence, index, 1)
        return pack_u32(rows), b"".join(names)

    def _names(self, sequence: Sequence | None, first: int, count: int) -> list[bytes]:
        chance = self._random
        tenant = self._state.accounts[sequence.account].name if sequence else "a"
        if tenant not in TENANTS or chance.random() < 0.3:
            return [chance.choice(self._made_up) for _ in range(count)]
        tenant = chance.choice((tenant, tenant, tenant, *TENANTS))
        names = digests_of(tenant, chance.choice(PROMPTS), first + count)[first:]
        return names + [chance.choice(self._made_up) for _ in range(count - len(names))]

    def _swaps(self, own: Session) -> bytes:
        rows: list[int] = []
        for number, sequence in own.sequences.items():
            for index, block in sequence.pins.items():
                rows += (number, index, self._random.choice((block, int(sequence.table[index]), 0)))
        return pack_u32(rows)

    def _fork(self, own: Session) -> m.Fork:
        number = self._number()
        sequence = own.sequences.get(number)
        children = pack_u32(self._number() for _ in range(self._random.randrange(1, 3)))
        fill = sequence.fill if sequence else 2
        return m.Fork(number, children, fill if self._random.random() < 0.6 else self._random.randint(0, fill))

    def _offer(self, others: list[bytes]) -> h.Offer:
        chance = self._random
        return h.Offer(self._number(), chance.choice(others), chance.choice((1, 50, 1000)))

    def _adopt(self, own: Session) -> h.Adopt:
        """Mostly one that was offered to this session; now and then under the number of one that waits."""
        chance, offers = self._random, self._state.offers
        theirs = [identity for identity, made in offers.items() if made.target is own]
        claims = self._state.claims.all()
        waiting = [n for claim in claims for owner, n in claim.waiters if owner == own.id]
        return h.Adopt(
            chance.choice(theirs if theirs and chance.random() < 0.8 else [*offers, bytes(16)]),
            chance.choice(waiting) if waiting and chance.random() < 0.5 else self._number(),
        )

    def _number(self) -> int:
        return self._random.randrange(NUMBERS)

    def _priority(self) -> int:
        chance = self._random
        return chance.choice((0, 1, 2, U32_MAX)) if chance.random() < 0.95 else U32_MAX + chance.randrange(1, 9)

    def _generation(self, identity: str) -> int:
        record = self._state.publications.get(identity)
        return record.generation if record and self._random.random() < 0.9 else self._random.randrange(4)
