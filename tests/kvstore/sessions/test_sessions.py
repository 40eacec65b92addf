"""Fence, reclaim, leases: no reference is lost and none comes back twice."""

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
    """Until its process is dead, nobody gets the blocks of a fenced session."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)

    driver.store.fence(session, 100)
    driver.store.fence(session, 200)

    assert (driver.counts()["free"], driver.counts()["quarantined"]) == (13, 3)
    assert (session.fenced_at, driver.store.counters.fenced) == (100, 1)
    driver.check()


@pytest.mark.parametrize("fenced", [True, False])
def test_a_reclaim_returns_every_reference_once(driver: Driver, fenced: bool) -> None:
    """Tables, copies and pins of a dead session come back, shared blocks to their other holders."""
    dead, alive = driver.attach(), driver.attach()
    for session in (alive, dead):
        driver.allocate(session, 1, PROMPT, reserve=16)
        driver.write(session, 1, 10)
    driver.seal(alive, 1)
    driver.seal(dead, 1, swap=False)
    driver.fork(dead, 1, 2, 9)
    driver.extend(dead, 2, 12)
    if fenced:
        driver.store.fence(dead, 0)
    driver.check()

    assert driver.gone(dead) == 4 + 2 + 3 + 2 + 1

    driver.check()
    assert driver.counts() == {"total": 16, "free": 12, "held": 4, "cached": 0, "quarantined": 0}


def test_a_block_shared_with_a_fenced_session_stays_held(driver: Driver) -> None:
    """A sealed block that another session uses is held, before and after the reclaim."""
    dead, alive = driver.attach(), driver.attach()
    driver.allocate(dead, 1, PROMPT)
    driver.write(dead, 1, 10)
    driver.seal(dead, 1)
    driver.allocate(alive, 1, PROMPT)
    driver.store.fence(dead, 0)
    assert (driver.counts()["held"], driver.counts()["quarantined"]) == (3, 1)

    driver.gone(dead)

    assert driver.counts()["held"] == 3
    driver.check()


def test_a_passed_lease_fences_and_a_renewed_one_does_not(driver: Driver) -> None:
    """Only sessions whose lease passed and that hold something are fenced; the empty ones are dropped."""
    late, renewed, empty = driver.attach(100), driver.attach(100), driver.attach(100)
    for session in (late, renewed):
        driver.store.step(session, m.Step(allocates=(m.Allocate(1, "a", 4),)))
    driver.store.heartbeat(renewed, 3, 90, 50)

    assert driver.store.judge_leases(99) == []
    assert [late] == driver.store.judge_leases(100)

    assert [late, renewed] == driver.store.state.sessions.all()
    assert empty not in driver.store.state.sessions.all()
    assert renewed.progress == 3


def test_a_gap_of_our_own_is_forgiven(driver: Driver) -> None:
    """Leases and graces move by the time in which the kvstore itself stood still."""
    session = driver.attach(100)
    driver.store.step(session, m.Step(allocates=(m.Allocate(1, "a", 4),)))
    driver.store.extend_leases(1000)
    assert driver.store.judge_leases(1099) == []
    driver.store.judge_leases(1100)
    driver.store.extend_leases(50)

    assert driver.store.overdue(1249, 100) == []
    assert [session] == driver.store.overdue(1250, 100)


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
