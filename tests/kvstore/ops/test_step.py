"""What a step says of many sequences at once does what the same things do one after the other."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from quire_kvstore.ops.slices import finish
from quire_kvstore.ops.step import step
from quire_kvstore.sessions.session import Session
from quire_proto import messages as m
from quire_proto.messages.handoff import Adopt, Offer
from quire_proto.wire.digests import DIGEST_BYTES, chain
from quire_proto.wire.u32 import pack_u32, unpack_rows
from tests.support.driver import Driver, key_of
from tests.support.store import Store

SIZE, BLOCKS = 4, 20
TENANTS = ("a", "b")
numbers = st.integers(1, 7)
completed_rows = st.lists(st.tuples(numbers, st.integers(0, 5), st.integers(0, 24), st.booleans()), max_size=8)
extend_rows = st.lists(st.tuples(numbers, st.integers(0, 30)), max_size=8)


def _prepared(data: st.DataObject) -> tuple[Driver, Session]:
    """Sequences of two tenants with equal and different prompts, a fork, some of it sealed, one of them offered."""
    driver = Driver(BLOCKS, SIZE)
    session = driver.attach()
    for number in range(1, 6):
        tokens = [data.draw(st.integers(0, 1))] * data.draw(st.integers(1, 11))
        if driver.allocate(session, number, tokens, TENANTS[number % 2]).code == m.OK and data.draw(st.booleans()):
            driver.write(session, number, len(tokens))
            driver.seal(session, number, swap=data.draw(st.booleans()))
    if 1 in driver.branches[session.id]:
        driver.fork(session, 1, 6, driver.branch(session, 1).fill)
    if 2 in session.sequences and data.draw(st.booleans()):
        driver.store.offer(session, Offer(2, driver.attach().id, 1000), b"o" * 16, 0)
    return driver, session


def digest_of(driver: Driver, session: Session, number: int, index: int, true: bool) -> bytes:
    """The digest of a block of a sequence that goes on with zeros; or one that names nothing."""
    branch = driver.branches[session.id].get(number)
    if branch is None or not true:
        return bytes([number, index] * (DIGEST_BYTES // 2))
    tokens = branch.tokens + [0] * ((index + 1) * SIZE - len(branch.tokens))
    return chain(key_of(branch.tenant), tokens[: (index + 1) * SIZE], SIZE)[-DIGEST_BYTES:]


def summary(store: Store, session: Session) -> object:
    """What may not differ: marks, names, pins, claims and counts; ids of blocks may."""
    state = store.state
    sequences = state.sessions.get(session.id).sequences  # type: ignore[union-attr]
    marks = {
        n: (s.fill, s.sealed, s.writable, len(s.table), sorted(s.pins), len(s.copies)) for n, s in sequences.items()
    }
    names = sorted((e.digest, e.parent, e.anchor or "") for e in state.index.entries())
    counters = {k: v for k, v in store.counters.as_dict().items() if k != "steps"}
    return marks, names, state.pool.counts(), state.charges.held.tolist(), counters, len(state.claims.all())


@given(st.data(), completed_rows, extend_rows)
@settings(max_examples=150)
def test_rows_of_a_step_are_as_good_as_single_ops(
    data: st.DataObject, completed: list[tuple[int, int, int, bool]], extends: list[tuple[int, int]]
) -> None:
    """Codes, marks, names and counts are the same; tables grow by as much; every invariant holds."""
    driver, session = _prepared(data)
    digests = [digest_of(driver, session, number, index, true) for number, index, _, true in completed]
    store, single = driver.store, copy.deepcopy(driver.store)
    twin = single.state.sessions.get(session.id)
    assert twin is not None

    reply = store.step(
        session,
        m.Step(
            completed=pack_u32([n for row in completed for n in row[:3]]),
            completed_digests=b"".join(digests),
            extends=pack_u32([n for row in extends for n in row]),
        ),
    )

    codes, canonical = [], []
    for (number, index, tokens, _), digest in zip(completed, digests, strict=True):
        code = single.step(twin, m.Step(fills=pack_u32([number, tokens]))).fills[0]
        if code == m.OK:
            answer = single.seal(twin, m.Seal(number, index, digest))
            code = answer.code
            canonical += [(number, *row) for row in unpack_rows(answer.canonical, 2)]
        codes.append(code)
    answers = [single.extend(twin, m.Extend(*row)) for row in extends]
    assert (list(reply.completed), unpack_rows(reply.canonical, 3)) == (codes, canonical)
    assert list(reply.extends) == [answer.code for answer in answers]
    assert len(reply.shortages) == codes_of(answers, m.NO_SPACE)
    assert len(unpack_rows(reply.blocks, 3)) == sum(len(answer.blocks) // 4 for answer in answers)
    assert len(reply.copies) == sum(len(answer.copies) for answer in answers)
    for number, index, block in unpack_rows(reply.blocks, 3):
        assert session.sequences[number].table[index] == block
    assert summary(store, session) == summary(single, twin)
    store.check_invariants()


def codes_of(answers: list[m.Extended], code: int) -> int:
    """How many have this code."""
    return sum(answer.code == code for answer in answers)


def test_a_decoding_batch_grows_and_seals_in_one_step() -> None:
    """Many sequences complete a block each and get their next one: all of it in the store, nothing copied."""
    driver = Driver(64, SIZE)
    session = driver.attach()
    for number in range(8):
        driver.allocate(session, number, [number] * 8)
        driver.write(session, number, 8)
        driver.seal(session, number)
        driver.extend(session, number, 12)
    digests = [driver.digests("a", [number] * 12)[-DIGEST_BYTES:] for number in range(8)]

    reply = driver.store.step(
        session,
        m.Step(
            completed=pack_u32([n for number in range(8) for n in (number, 2, 12)]),
            completed_digests=b"".join(digests),
            extends=pack_u32([n for number in range(8) for n in (number, 13)]),
        ),
    )

    assert (bytes(8), bytes(8), b"", b"") == (reply.completed, reply.extends, reply.canonical, reply.copies)
    assert [row[:2] for row in unpack_rows(reply.blocks, 3)] == [(number, 3) for number in range(8)]
    assert {len(s.table) for s in session.sequences.values()} == {4}
    assert driver.store.state.index.longest(digests[:1], 0, 1) == [], "below its own chain only"
    assert all(driver.store.state.index.find(digest) for digest in digests)
    driver.store.check_invariants()


def test_many_change_hands_in_one_step() -> None:
    """Offers after the fills of the same step, each with its own result; and adopts, of which one fails alone."""
    driver = Driver(BLOCKS, SIZE)
    source, target = driver.attach(), driver.attach()
    for number in (1, 2):
        assert driver.allocate(source, number, [number] * 5, TENANTS[0]).code == m.OK
    names = iter([b"a" * 16, b"b" * 16, b"c" * 16, b"d" * 16])
    wanted = [(1, target.id), (9, target.id), (2, source.id), (2, target.id)]
    body = m.Step(fills=pack_u32([1, 5, 2, 5]), offers=tuple(Offer(number, to, 1000) for number, to in wanted))
    reply = finish(step(driver.store.state, source, body, lambda: next(names), 0))
    assert list(reply.fills) == [m.OK] * 2
    assert [(one.code, one.offer) for one in reply.offers] == [
        (m.OK, b"a" * 16), (m.NO_SUCH, b""), (m.CONFLICT, b""), (m.OK, b"d" * 16),
    ]  # fmt: skip
    adopts = (Adopt(b"a" * 16, 3), Adopt(b"x" * 16, 4), Adopt(b"d" * 16, 3), Adopt(b"d" * 16, 5))
    taken = finish(step(driver.store.state, target, m.Step(adopts=adopts))).adopts
    assert [(one.code, one.fill) for one in taken] == [(m.OK, 5), (m.NO_SUCH, 0), (m.CONFLICT, 0), (m.OK, 5)]
    assert (set(source.sequences), set(target.sequences)) == (set(), {3, 5})
    driver.store.check_invariants()
