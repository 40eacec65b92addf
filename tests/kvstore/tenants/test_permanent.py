"""Blocks that do not come back by themselves: a request that does not fit beside them is told "never", in time."""

from __future__ import annotations

import pytest

from quire_kvstore.ops import publish as publishing
from quire_kvstore.server.quota import declare
from quire_kvstore.sessions.session import Session
from quire_kvstore.tenants.quotas import Quota
from quire_proto import messages as m
from tests.kvstore.sharing.test_publications import TEN, computed_once
from tests.support.driver import Driver

BLOCKS, SIZE = 16, 4


@pytest.fixture
def driver() -> Driver:
    return Driver(blocks=BLOCKS, publications={"ten": TEN})


def prompt(blocks: int, first: int = 100) -> list[int]:
    return [first + i for i in range(blocks * SIZE)]


def fenced(driver: Driver, blocks: int, *, stays: bool) -> Session:
    """A session in quarantine with so many blocks, sealed."""
    session = driver.attach()
    driver.allocate(session, 1, prompt(blocks), tenant="t")
    driver.write(session, 1, blocks * SIZE)
    driver.seal(session, 1)
    driver.store.fence(session, 1)
    session.stays = stays
    return session


def again(reply: m.Allocated | m.Extended) -> bool:
    """It is refused; whether it may ask again."""
    assert reply.code == m.NO_SPACE
    return reply.retry_after_ms > 0


def test_more_than_the_pool_is_told_never(driver: Driver) -> None:
    """And what would fit an empty pool is told to come back."""
    session = driver.attach()
    driver.allocate(session, 1, prompt(8), tenant="t")
    assert again(driver.allocate(session, 2, prompt(BLOCKS, 500), tenant="t"))
    assert not again(driver.allocate(session, 2, prompt(BLOCKS + 1, 500), tenant="t"))


def test_a_publication_changes_what_can_ever_fit(driver: Driver) -> None:
    """Asked again after a publication was pinned, a request that waits is told; and when it is gone, it fits again."""
    session = driver.attach()
    driver.allocate(session, 1, prompt(8), tenant="t")
    assert again(driver.allocate(session, 2, prompt(14, 500), tenant="t"))

    computed_once(driver)

    assert not again(driver.allocate(session, 2, prompt(14, 500), tenant="t"))
    assert again(driver.allocate(session, 2, prompt(13, 500), tenant="t"))
    driver.free(session, 1)
    assert not again(driver.allocate(session, 2, prompt(14, 500), tenant="t"))
    record = driver.store.state.publications.get("ten")
    assert record is not None
    publishing.unpublish(driver.store.state, record)
    assert driver.allocate(session, 2, prompt(14, 500), tenant="t").code == m.OK
    driver.check()


def test_what_shares_the_publication_counts_it_once(driver: Driver) -> None:
    """A request that begins with it needs its own blocks beside it, and no second copy."""
    computed_once(driver)
    session = driver.attach()
    other = driver.attach()
    driver.allocate(other, 1, prompt(2), tenant="o")
    tokens = [*TEN, *prompt(13)][: (2 + 13) * SIZE]
    assert again(driver.allocate(session, 1, [*tokens, *prompt(1)], tenant="t", publication="ten")) is False
    driver.free(other, 1)
    assert driver.allocate(session, 1, tokens, tenant="t", publication="ten").code == m.OK
    driver.check()


def test_a_running_sequence_is_told_never_when_it_must_grow(driver: Driver) -> None:
    """It holds all that can be free beside the publication, so no preemption of others would help."""
    computed_once(driver)
    session = driver.attach()
    driver.allocate(session, 1, prompt(12), tenant="t")
    driver.allocate(session, 2, prompt(1, 900), tenant="u")

    assert again(driver.extend(session, 1, 13 * SIZE))
    driver.free(session, 2)
    assert driver.extend(session, 1, 13 * SIZE).code == m.OK
    assert not again(driver.extend(session, 1, 14 * SIZE))


def test_a_quarantine_that_stays_is_told_apart_from_one_that_ends(driver: Driver) -> None:
    """A fenced process that will be killed gives its blocks back soon; one that may not be killed does not."""
    session = driver.attach()
    stuck = fenced(driver, 6, stays=False)
    assert again(driver.allocate(session, 1, prompt(12, 500), tenant="t"))
    stuck.stays = True
    assert not again(driver.allocate(session, 1, prompt(12, 500), tenant="t"))
    assert driver.allocate(session, 1, [*prompt(6), *prompt(8, 500)], tenant="t").code == m.OK, "what it shares it has"
    driver.free(session, 1)
    driver.gone(stuck)
    assert driver.allocate(session, 1, prompt(12, 500), tenant="t").code == m.OK
    driver.check()


def test_what_stands_counts_beside_quotas(driver: Driver) -> None:
    """With limits and guarantees the same: pins and quarantine are taken off once, the reserve pays for the latter."""
    state = driver.store.state
    state.quotas.pin_budget, state.quotas.quarantine_reserve = 4, 2
    computed_once(driver)
    declare(state, "g", Quota(guarantee=3))
    session, other = driver.attach(), driver.attach()
    driver.allocate(other, 1, prompt(2, 900), tenant="o")

    assert not again(driver.allocate(session, 1, prompt(9), tenant="t"))
    assert again(driver.allocate(session, 1, prompt(8), tenant="t"))
    fenced(driver, 2, stays=True)
    assert again(driver.allocate(session, 1, prompt(8, 300), tenant="u")), "the quarantine is what the reserve is for"
    driver.check()


def test_a_limit_lowered_while_it_waits_ends_the_wait(driver: Driver) -> None:
    """What was told to come back is told never, once its tenant may not have so much."""
    session = driver.attach()
    driver.allocate(session, 1, prompt(4), tenant="t")
    declare(driver.store.state, "t", Quota(limit=10))
    assert again(driver.allocate(session, 2, prompt(8, 500), tenant="t"))
    declare(driver.store.state, "t", Quota(limit=7))
    assert not again(driver.allocate(session, 2, prompt(8, 500), tenant="t"))
