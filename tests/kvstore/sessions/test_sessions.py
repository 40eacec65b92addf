"""A session fenced twice, and its copy ids; how sessions live and end stands in tests/scenarios/sessions."""

from __future__ import annotations

import pytest

from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32
from tests.support.driver import Driver

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_a_fence_moves_everything_to_quarantine_and_frees_nothing(driver: Driver) -> None:
    """Until its process is dead, no other session gets the blocks of a fenced one."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)

    driver.store.fence(session, 100)
    driver.store.fence(session, 200)

    assert (driver.counts()["free"], driver.counts()["quarantined"]) == (13, 3)
    assert (session.fenced_at, driver.store.counters.fenced) == (100, 1)
    driver.check()


def test_copy_ids_are_never_shared_by_two_copies(driver: Driver) -> None:
    """The counter of copy ids wraps around and steps over those still outstanding."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.fork(session, 1, 2, 10)
    driver.fork(session, 1, 3, 10)
    session.next_copy = 0xFFFF_FFFF
    driver.extend(session, 2, 11)
    session.next_copy = 0xFFFF_FFFF
    driver.extend(session, 3, 11)

    assert session.copies == {0xFFFF_FFFF: 2, 1: 3}
    assert bytes([m.OK] * 2) == driver.store.step(session, m.Step(copies_done=pack_u32([1, 0xFFFF_FFFF]))).copies_done
