"""Offer and adopt: one owner at every instant, whoever dies, frees, or comes too late."""

from __future__ import annotations

import pytest

from quire_kvstore.errors import Refusal
from quire_kvstore.sessions.session import Session
from quire_proto import messages as m
from quire_proto.messages.handoff import Adopt, Adopted, Offer
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.support.driver import Driver
from tests.support.service import Wire

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
NAME = b"o" * 16


@pytest.fixture
def driver() -> Driver:
    return Driver()


def offered(driver: Driver) -> tuple[Session, Session]:
    """A source that offers its sequence 1 until time 100, and the target."""
    source, target = driver.attach(), driver.attach()
    driver.allocate(source, 1, PROMPT, reserve=14)
    driver.write(source, 1, 10)
    driver.seal(source, 1)
    driver.store.offer(source, Offer(1, target.id, 100), NAME, 0)
    driver.check()
    return source, target


def adopt(driver: Driver, source: Session, target: Session, number: int = 7) -> Adopted:
    """Adopt, and move the engine's side along."""
    reply = driver.store.adopt(target, Adopt(NAME, number))
    driver.branches[target.id][number] = driver.branches[source.id].pop(1)
    return reply


def refused(code: str, call: object, *args: object) -> None:
    """The call raises a Refusal with this code."""
    with pytest.raises(Refusal) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.code == code


def test_an_adopted_sequence_goes_on_in_the_target(driver: Driver) -> None:
    """The target gets table and marks, writes, seals and forks; the source has nothing left."""
    source, target = offered(driver)
    table = driver.branch(source, 1).table

    reply = adopt(driver, source, target)

    assert (list(unpack_u32(reply.blocks)), reply.fill, reply.capacity, reply.sealed) == (table, 10, 16, 2)
    assert (reply.tenant, source.sequences, driver.store.counters.adopted) == ("a", {}, 1)
    assert driver.store.free(source, pack_u32([1])).codes == bytes([m.NO_SUCH])
    assert driver.write(target, 7, 14, 3) == m.OK
    assert driver.seal(target, 7).sealed == 1
    assert driver.fork(target, 7, 8, 13) == m.OK
    driver.check()
    assert driver.gone(target) == 8
    assert driver.counts()["held"] == 0
    driver.check()


def test_an_offered_sequence_is_frozen(driver: Driver) -> None:
    """Every change of it is a conflict; a second offer of it too."""
    source, target = offered(driver)
    store = driver.store
    step = m.Step(
        fills=pack_u32([1, 11]),
        swaps=pack_u32([1, 0, 0]),
        extends=pack_u32([1, 20]),
        forks=(m.Fork(1, pack_u32([2]), 4),),
    )

    reply = store.step(source, step)

    codes = (*reply.fills, *reply.swaps, reply.extends[0], reply.forks[0].code)
    assert codes == (m.CONFLICT,) * 4
    assert store.seal(source, m.Seal(1, 2, bytes(32))).code == m.CONFLICT
    refused("CONFLICT", store.offer, source, Offer(1, target.id, 100), b"p" * 16, 0)
    driver.check()


@pytest.mark.parametrize(
    "end", ["free", "source dies", "source is fenced", "target dies", "target is fenced", "expiry"]
)
def test_whatever_ends_an_offer_leaves_one_owner(driver: Driver, end: str) -> None:
    """Nobody can adopt any more; the sequence is the source's, or gone with it, and every reference is accounted."""
    source, target = offered(driver)
    if end == "free":
        driver.free(source, 1)
    elif end == "source dies":
        driver.gone(source)
    elif end == "source is fenced":
        driver.store.fence(source, 5)
    elif end == "target dies":
        driver.gone(target)
    elif end == "target is fenced":
        driver.allocate(target, 1, [1, 2])
        driver.store.fence(target, 5)
    else:
        driver.store.tick(100)

    driver.check()
    if end != "target dies":
        refused("NOT_FOUND", driver.store.adopt, target, Adopt(NAME, 7))
    assert not driver.store.state.offers
    if end in ("expiry", "target dies", "target is fenced"):
        assert driver.write(source, 1, 11) == m.OK
        driver.check()


def test_an_offer_does_not_expire_while_the_kvstore_stands_still(driver: Driver) -> None:
    """A gap of our own moves its end, as it moves leases."""
    source, target = offered(driver)
    driver.store.extend_leases(1000)
    driver.store.tick(1099)
    adopt(driver, source, target)
    driver.check()


def test_only_a_quiesced_sequence_is_offered_and_only_to_a_ready_session(driver: Driver) -> None:
    """Unacknowledged copies, an unknown target, oneself, an unknown sequence: refused, and nothing is frozen."""
    source, target = driver.attach(), driver.attach()
    driver.allocate(source, 1, PROMPT)
    driver.write(source, 1, 10)
    driver.fork(source, 1, 2, 10)
    driver.extend(source, 2, 11)
    offer = driver.store.offer

    refused("CONFLICT", offer, source, Offer(2, target.id, 100), NAME, 0)
    refused("CONFLICT", offer, source, Offer(1, b"?" * 16, 100), NAME, 0)
    refused("CONFLICT", offer, source, Offer(1, source.id, 100), NAME, 0)
    refused("CONFLICT", offer, source, Offer(1, target.id, 0), NAME, 0)
    refused("NOT_FOUND", offer, source, Offer(9, target.id, 100), NAME, 0)
    assert driver.write(source, 1, 11) == m.OK
    driver.check()


def test_a_stranger_cannot_adopt_and_a_used_number_changes_nothing(driver: Driver) -> None:
    """Only the named target may; with a number in use the offer stays open."""
    source, target = offered(driver)
    stranger = driver.attach()
    driver.allocate(target, 7, [1, 2])

    refused("NOT_FOUND", driver.store.adopt, stranger, Adopt(NAME, 1))
    refused("CONFLICT", driver.store.adopt, target, Adopt(NAME, 7))
    adopt(driver, source, target, 8)
    driver.check()


def test_offer_and_adopt_on_the_wire() -> None:
    """Two sessions hand a sequence over; a resent adopt gets the same reply and moves nothing twice."""
    wire = Wire()
    target = wire.open(b"t" * 16, pid=1)
    source = wire.open(b"s" * 16, pid=2)
    assert wire.ask("allocate", 2, m.Allocate(1, "t", 9)).code == ""
    offer = wire.ask("offer", 3, Offer(1, target, 50)).body["offer"]
    frame = wire.frame("adopt", 2, Adopt(offer, 5), session=target)

    first = wire.send(frame)

    assert (first.code, first.body["tenant"]) == ("", "t")
    assert wire.send(frame) == first
    assert wire.ask("free", 4, m.Free(pack_u32([1])), session=source).body == {"codes": bytes([m.NO_SUCH])}
    assert wire.ask("adopt", 3, Adopt(offer, 6), session=target).code == "NOT_FOUND"
    wire.store.check_invariants()
