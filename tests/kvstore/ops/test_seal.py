"""What made-up digests may not do, and a chain that is sealed in portions."""

from __future__ import annotations

import pytest

from quire_proto import messages as m
from tests.support.driver import Driver

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


@pytest.fixture
def driver() -> Driver:
    return Driver()


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
