"""A state machine over the store: several sessions and tenants, a small pool, random ops, zombies.

After every step the store's invariants hold, each engine's table is the store's, and every sequence finds exactly
its own content below its fill mark. Fenced sessions go on writing wherever they were allowed to write.
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.sessions.session import FENCED, Session
from quire_proto import messages as m
from quire_proto.wire.digests import split
from tests.support.driver import Driver

BLOCKS, SIZE = 20, 2
PUBLISHED = [0, 1, 1, 0, 1]
# Few prompts with common beginnings, so that hits, duplicates and evictions are frequent.
TOKENS = st.tuples(st.sampled_from([[0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]]), st.integers(0, 5)).map(
    lambda pair: pair[0] + [1] * pair[1]
)
PICK = st.integers(0, 1 << 16)


class StoreMachine(RuleBasedStateMachine):
    """Rules are what engines, crashes and the clock can do."""

    policy = "lru"

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(BLOCKS, SIZE, {"p": PUBLISHED}, make_policy(self.policy, BLOCKS))
        self.now = 0
        self.next_number = 0
        self.driver.attach(100)
        self.driver.attach(100)

    # --- choosing ------------------------------------------------------------------------------------------------

    def sessions(self, fenced: bool = False) -> list[Session]:
        return [s for s in self.driver.store.state.sessions.all() if (s.state == FENCED) is fenced]

    def sequences(self) -> list[tuple[Session, int]]:
        return [(session, number) for session in self.sessions() for number in session.sequences]

    def pick(self, choice: int) -> tuple[Session, int]:
        every = self.sequences()
        return every[choice % len(every)]

    def number(self) -> int:
        self.next_number += 1
        return self.next_number

    # --- rules ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.driver.store.state.sessions) < 2)
    @rule()
    def attach(self) -> None:
        self.driver.attach(self.now + 100)

    @precondition(lambda self: self.sessions())
    @rule(who=PICK, tenant=st.sampled_from("ab"), tokens=TOKENS, ahead=st.integers(0, 4), published=st.booleans())
    def allocate(self, who: int, tenant: str, tokens: list[int], ahead: int, published: bool) -> None:
        session = self.sessions()[who % len(self.sessions())]
        tokens = PUBLISHED + tokens[1:] if published else tokens
        before = self.snapshot()
        known = self.prefix(tenant, tokens)
        reply = self.driver.allocate(
            session, self.number(), tokens, tenant, "p" if published else "", reserve=len(tokens) + ahead
        )
        if reply.code == m.NO_SPACE:
            assert self.snapshot() == before
            assert reply.missing > 0
        elif not published:
            # Without room for the source of a copy beside its target, whole blocks only.
            found = {known} if self.driver.store.state.pool.free else {known, known // SIZE * SIZE}
            assert reply.computed in found, "the longest indexed prefix, as a plain loop finds it"
        else:
            assert reply.computed in {0} or reply.computed >= min(len(PUBLISHED), len(tokens) - 1)

    @precondition(lambda self: self.sequences())
    @rule(which=PICK, count=st.integers(1, 4), token=st.integers(0, 1))
    def write(self, which: int, count: int, token: int) -> None:
        session, number = self.pick(which)
        sequence = session.sequences[number]
        assert self.driver.write(session, number, min(sequence.fill + count, sequence.writable), token) == m.OK

    @precondition(lambda self: self.sequences())
    @rule(which=PICK, token=st.integers(0, 1), swap=st.booleans())
    def write_all_and_seal(self, which: int, token: int, swap: bool) -> None:
        session, number = self.pick(which)
        assert self.driver.write(session, number, session.sequences[number].writable, token) == m.OK
        self.seal_one(session, number, swap)

    @precondition(lambda self: self.sequences())
    @rule(which=PICK, count=st.integers(0, 5))
    def extend(self, which: int, count: int) -> None:
        session, number = self.pick(which)
        before = self.snapshot()
        if self.driver.extend(session, number, session.sequences[number].fill + count).code == m.NO_SPACE:
            assert self.snapshot() == before

    @precondition(lambda self: self.sequences())
    @rule(which=PICK, at=PICK)
    def fork(self, which: int, at: int) -> None:
        session, number = self.pick(which)
        if len(session.sequences) > 8:
            return
        fill = session.sequences[number].fill
        assert self.driver.fork(session, number, self.number(), at % (fill + 1)) == m.OK

    @precondition(lambda self: self.sequences())
    @rule(which=PICK, swap=st.booleans())
    def seal(self, which: int, swap: bool) -> None:
        self.seal_one(*self.pick(which), swap)

    def seal_one(self, session: Session, number: int, swap: bool) -> None:
        chained = session.sequences[number].chained
        assert self.driver.seal(session, number, swap).code == (m.OK if chained else m.UNPUBLISHED)

    @precondition(lambda self: self.sequences())
    @rule(which=PICK)
    def acknowledge(self, which: int) -> None:
        codes = self.driver.acknowledge(*self.pick(which))
        assert set(codes) <= {m.OK}

    @precondition(lambda self: self.sequences())
    @rule(which=PICK)
    def free(self, which: int) -> None:
        session, number = self.pick(which)
        assert self.driver.free(session, number) == [m.OK]

    @precondition(lambda self: self.sequences())
    @rule(which=PICK, at=PICK)
    def misuse(self, which: int, at: int) -> None:
        """Requests that contradict the state are refused and change nothing."""
        session, number = self.pick(which)
        sequence, before = session.sequences[number], self.snapshot()
        store = self.driver.store
        assert store.fork(session, m.Fork(number, b"\x01\0\0\x80", sequence.fill + 1 + at)).code == m.CONFLICT
        assert store.allocate(session, m.Allocate(number, "a", 1)).code == m.CONFLICT
        past = m.Seal(number, len(sequence.table), bytes(32))
        assert store.seal(session, past).code == m.CONFLICT
        assert self.snapshot() == before

    @precondition(lambda self: len(self.sequences()) > 5)
    @rule(who=PICK)
    def die(self, who: int) -> None:
        self.driver.gone(self.sessions()[who % len(self.sessions())])

    @precondition(lambda self: len(self.sequences()) > 3)
    @rule(who=PICK, passed=st.integers(20, 90))
    def time_passes(self, who: int, passed: int) -> None:
        """All but one session beat."""
        self.now += passed
        silent = self.sessions()[who % len(self.sessions())]
        for session in self.sessions():
            if session is not silent:
                self.driver.store.heartbeat(session, 0, self.now, 100)
        self.driver.store.judge_leases(self.now)
        kept = {session.id for session in self.driver.store.state.sessions.all()}
        self.driver.branches = {name: own for name, own in self.driver.branches.items() if name in kept}

    @precondition(lambda self: self.sessions(fenced=True))
    @rule(who=PICK)
    def zombie_writes(self, who: int) -> None:
        """A fenced engine still fills every slot that it was given to write."""
        session = self.sessions(fenced=True)[who % len(self.sessions(fenced=True))]
        for sequence in session.sequences.values():
            for position in range(sequence.fill, sequence.writable):
                self.driver.arena[sequence.table[position // SIZE], position % SIZE] = -1

    @precondition(lambda self: self.sessions(fenced=True))
    @rule(who=PICK)
    def zombie_dies(self, who: int) -> None:
        self.driver.gone(self.sessions(fenced=True)[who % len(self.sessions(fenced=True))])

    # --- checks --------------------------------------------------------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        self.driver.check()

    def teardown(self) -> None:
        """When all are dead, only publications and cache are left."""
        for session in self.driver.store.state.sessions.all():
            self.driver.gone(session)
        self.driver.check()
        pinned = {block for r in self.driver.store.state.publications.all() if r.table is not None for block in r.table}
        assert self.driver.counts()["held"] == len(pinned)

    def prefix(self, tenant: str, tokens: list[int]) -> int:
        """Tokens of the longest indexed prefix, at least one token short of all."""
        index, found = self.driver.store.state.index, 0
        for digest in split(self.driver.digests(tenant, tokens)):
            if index.find(digest) is None:
                break
            found += 1
        return min(found * SIZE, len(tokens) - 1)

    def snapshot(self) -> tuple[Any, ...]:
        """All that a refused request must leave alone."""
        pool, state = self.driver.store.state.pool, self.driver.store.state
        tables = [
            (s.id, n, q.table.tolist(), q.fill, q.writable)
            for s in state.sessions.all()
            for n, q in s.sequences.items()
        ]
        arrays = pool.refs.tolist(), pool.sealed.tolist(), pool.free_ids().tolist(), pool.cached_ids()
        return copy.deepcopy((tables, arrays, state.appender.tolist(), len(state.index)))


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
