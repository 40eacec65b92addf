"""Deferred replies in dispatch: where they go and when, without a socket."""

from __future__ import annotations

import pytest

from quire_kvstore.server.task import Task
from quire_proto import messages as m
from quire_proto.wire.envelope import decode_reply
from quire_proto.wire.u32 import pack_u32
from tests.support.service import BareService


@pytest.fixture
def wire() -> BareService:
    wire = BareService()
    wire.open()
    return wire


def claimed(wire: BareService) -> m.Wait:
    """Sequence 1 of the session computes two blocks; what sequence 2 has to wait for."""
    assert wire.ask("allocate", 2, m.Allocate(1, "t", 9, bytes([1]) * 32 + bytes([2]) * 32)).code == ""
    reply = wire.ask("allocate", 3, m.Allocate(2, "t", 9, bytes([1]) * 32 + bytes([2]) * 32, may_wait=1))
    assert reply.body["code"] == m.CLAIMED
    return m.Wait(2, reply.body["claimed"][-32:])


def test_a_deferred_reply_goes_to_whoever_asked_last(wire: BareService) -> None:
    """A repeated wait, from another connection, is the one that is answered; a request between them is served."""
    wait = claimed(wire)
    frame = wire.frame("wait", 1 << 62, wait)

    assert wire.dispatch.handle(Task(b"a", [frame], 0), 0) is None
    assert wire.ask("free", 4, m.Free(b"")).code == ""
    assert wire.dispatch.handle(Task(b"b", [frame], 0), 0) is None
    assert wire.dispatch.deferred(0) == []
    assert wire.ask("free", 5, m.Free(pack_u32([1]))).code == ""
    ((peer, reply),) = wire.dispatch.deferred(0)
    assert (peer, decode_reply(reply).body, decode_reply(reply).number) == (b"b", {"state": "yours"}, 1 << 62)
    assert wire.dispatch.deferred(0) == []


def test_a_deferred_reply_comes_by_its_deadline_or_with_the_fence(wire: BareService) -> None:
    """``deadline`` at the request's own deadline, a minute without one; STALE_SESSION if the session is fenced."""
    wait = claimed(wire)
    wire.store.state.claims.patience_ms = 1 << 40

    for deadline_ms, ends in ((500, 500), (0, 60_500)):
        assert wire.dispatch.handle(Task(b"a", [wire.frame("wait", 1 << 62, wait, deadline_ms)], 0), ends - 500) is None
        assert wire.dispatch.deferred(ends - 501) == []
        ((_, reply),) = wire.dispatch.deferred(ends)
        assert decode_reply(reply).body == {"state": "deadline"}
    assert wire.dispatch.handle(Task(b"a", [wire.frame("wait", 1 << 62, wait)], 0), 0) is None
    wire.store.fence(wire.store.state.sessions.all()[0], 0)
    ((_, reply),) = wire.dispatch.deferred(0)
    assert decode_reply(reply).code == "STALE_SESSION"


@pytest.mark.parametrize(("body", "code"), [(m.Wait(1, bytes(32)), "CONFLICT"), (m.Wait(2), "BAD_FIELD")])
def test_a_wait_for_nothing_is_refused(wire: BareService, body: m.Wait, code: str) -> None:
    """A sequence that has its table waits for nothing; a wait names one digest or a publication."""
    claimed(wire)

    assert wire.ask("wait", 1 << 62, body).code == code
