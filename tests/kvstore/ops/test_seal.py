"""Seal, canonical blocks, swap, and what digests may and may not do: one store, checked content."""

from __future__ import annotations

import pytest

from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32, unpack_rows
from tests.support.driver import Driver

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_unwritten_blocks_cannot_be_sealed(driver: Driver) -> None:
    """A seal past the fill mark is refused as a whole."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 7)

    reply = driver.store.seal(session, m.Seal(1, 0, driver.digests("a", PROMPT)))

    assert (reply.code, len(driver.store.state.index)) == (m.CONFLICT, 0)


def test_a_seal_without_its_parent_is_unpublished(driver: Driver) -> None:
    """Block 1 cannot be indexed before block 0."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)

    reply = driver.store.seal(session, m.Seal(1, 1, driver.digests("a", PROMPT)[32:]))

    assert reply.code == m.UNPUBLISHED


def test_sealing_again_is_harmless_and_other_digests_are_not(driver: Driver) -> None:
    """The same digests again are answered as sealed; different ones for a sealed block are a conflict."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.seal(session, 1)

    again = driver.store.seal(session, m.Seal(1, 0, driver.digests("a", PROMPT)))
    other = driver.store.seal(session, m.Seal(1, 0, driver.digests("b", PROMPT)))

    assert (again.code, again.sealed) == (m.OK, 2)
    assert other.code == m.CONFLICT


@pytest.mark.parametrize(("swap", "held"), [(True, 4), (False, 6)])
def test_a_duplicate_is_answered_with_the_canonical_block(driver: Driver, swap: bool, held: int) -> None:
    """Two engines compute the same prompt: the second is told the first's blocks, and its own go when it swaps."""
    one, two = driver.attach(), driver.attach()
    for session in (one, two):
        driver.allocate(session, 1, PROMPT)
        driver.write(session, 1, 10)
    driver.seal(one, 1)

    reply = driver.seal(two, 1, swap=swap)

    assert unpack_rows(reply.canonical, 2) == [(0, 0), (1, 1)]
    assert held == driver.counts()["held"]
    driver.free(one, 1)
    driver.check()
    assert held - 1 == driver.counts()["held"]
    driver.free(two, 1)
    driver.check()
    assert driver.counts()["cached"] == 2


def test_a_declined_swap_keeps_the_chain(driver: Driver) -> None:
    """Who keeps its duplicate may seal what follows: the canonical parent stays held until the sequence is freed."""
    one, two = driver.attach(), driver.attach()
    for session in (one, two):
        driver.allocate(session, 1, PROMPT, reserve=16)
        driver.write(session, 1, 10)
    driver.seal(one, 1)
    driver.seal(two, 1, swap=False)
    own = driver.branch(two, 1).table[0]
    assert bytes([m.OK]) == driver.store.step(two, m.Step(swaps=pack_u32((1, 0, own)))).swaps
    driver.free(one, 1)

    driver.write(two, 1, 12, token=3)

    assert (driver.seal(two, 1, swap=False).code, len(driver.sequence(two, 1).table) - 3) == (m.OK, 1)
    assert driver.counts()["held"] == 6
    driver.check()


def test_a_swap_to_any_other_block_is_a_conflict(driver: Driver) -> None:
    """Only the canonical block that was named may enter a table."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)

    reply = driver.store.step(session, m.Step(swaps=pack_u32((1, 0, 9, 1, 50, 0, 4, 0, 0))))

    assert list(reply.swaps) == [m.CONFLICT, m.CONFLICT, m.NO_SUCH]


def test_a_fork_may_outlive_the_parent_of_what_its_sibling_sealed(driver: Driver) -> None:
    """A sibling sealed a shared block above another's canonical block: evicting that one unnames the shared block."""
    first, second = driver.attach(), driver.attach()
    for session in (first, second):
        driver.allocate(session, 1, PROMPT[:8])
        driver.write(session, 1, 8)
    driver.store.seal(first, m.Seal(1, 0, driver.digests("a", PROMPT[:4])))
    driver.fork(second, 1, 2, 8)
    driver.seal(second, 1)
    driver.free(first, 1)
    driver.free(second, 1)
    assert driver.counts()["cached"] == 1

    assert driver.allocate(first, 3, [1] * 56, tenant="b").code == m.OK
    driver.check()
    assert len(driver.store.state.index) == 0
    assert driver.seal(second, 2).code == m.OK
    driver.check()
    assert len(driver.store.state.index) == 2


ROOT, ONE, TWO = bytes(32), b"\x01" * 32, b"\x02" * 32


@pytest.mark.parametrize("digests", [ROOT, ONE + ONE, ONE + ROOT])
def test_made_up_digests_cannot_form_a_ring(driver: Driver, digests: bytes) -> None:
    """The root's name, or one name for two blocks, is refused as a whole: no chain may lead back to itself."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)

    assert driver.store.seal(session, m.Seal(1, 0, digests)).code == m.CONFLICT
    assert len(driver.store.state.index) == 0


def test_a_digest_has_one_parent(driver: Driver) -> None:
    """Sealing a known digest above another parent is refused: it is not the same prefix."""
    one, two = driver.attach(), driver.attach()
    for session in (one, two):
        driver.allocate(session, 1, PROMPT)
        driver.write(session, 1, 10)
    assert driver.store.seal(one, m.Seal(1, 0, ONE + TWO)).code == m.OK

    assert driver.store.seal(two, m.Seal(1, 0, TWO)).code == m.CONFLICT
    driver.check()


@pytest.mark.parametrize("portion", [1, 2, 3])
def test_a_chain_is_the_same_however_it_is_sealed(portion: int) -> None:
    """At once or in portions, below a block that has another child: the same names, children and parents."""
    drivers = []
    for size in (portion, 6):
        driver = Driver(blocks=32)
        session = driver.attach()
        for number, tokens in enumerate((PROMPT[:4] + PROMPT * 2, PROMPT[:4] + PROMPT[::-1] * 2)):
            driver.allocate(session, number, tokens)
            driver.write(session, number, len(tokens))
            sealed = session.sequences[number].sealed
            names = driver.digests("a", tokens)
            while sealed < len(names) // 32:
                step = names[32 * sealed : 32 * (sealed + size)]
                assert driver.store.seal(session, m.Seal(number, sealed, step)).code == m.OK
                sealed += len(step) // 32
                driver.check()
        index = driver.store.state.index
        drivers.append((list(index.entries()), index._child, index._siblings))
    assert drivers[0] == drivers[1]
