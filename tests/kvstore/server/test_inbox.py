"""The inbox: no connection waits for another's backlog, and a backlog costs no memory."""

from __future__ import annotations

from quire_kvstore.server.inbox import MAX_QUEUED, Inbox
from quire_kvstore.server.task import Task
from quire_proto import messages as m
from quire_proto.wire.envelope import decode_reply
from tests.support.service import BareService


def task(peer: bytes, number: int) -> Task:
    """The ``number``-th message of a connection."""
    return Task(peer, [b"%d" % number], number)


def test_each_connection_gives_one_message_a_round_in_its_own_order() -> None:
    """A late single request is in the very next round, however long another queue is."""
    inbox = Inbox()
    for number in range(5):
        inbox.put(task(b"flood", number))
    assert [one.peer for one in inbox.round()] == [b"flood"]
    inbox.put(task(b"other", 9))

    assert [(one.peer, one.received_ms) for one in inbox.round()] == [(b"flood", 1), (b"other", 9)]
    assert [inbox.round()[0].received_ms for _ in range(3)] == [2, 3, 4]
    assert (len(inbox), inbox.round()) == (0, [])


def test_a_full_queue_refuses_and_the_others_stay_open() -> None:
    """The message past the limit is not kept; other connections are not touched by it."""
    inbox = Inbox()
    assert all(inbox.put(task(b"flood", number)) for number in range(MAX_QUEUED))

    assert not inbox.put(task(b"flood", MAX_QUEUED))
    assert inbox.put(task(b"other", 0))
    assert len(inbox) == MAX_QUEUED + 1


def test_busy_consumes_nothing_and_says_when_to_come_back() -> None:
    """The same bytes are executed later, as if they had never come before."""
    wire = BareService()
    wire.open()
    frame = wire.frame("allocate", 2, m.Allocate(1, "t", 9))

    reply = decode_reply(wire.dispatch.busy([frame]))

    assert (reply.code, reply.number, reply.body["detail"]) == ("BUSY", 2, {"retry_after_ms": 100})
    assert wire.send(frame).code == ""
    assert wire.store.counters.busy_replies == 1


def test_a_reply_that_was_not_taken_marks_its_session_as_slow() -> None:
    """Stats name it; damaged bytes name no session and only count."""
    wire = BareService()
    wire.open()
    wire.dispatch.unsent([wire.frame("step", 2, m.Step())])
    wire.dispatch.unsent([b"\xc1"])
    wire.dispatch.unsent([])

    [session] = wire.ask("stats", 0).body["sessions"]
    assert (session["unsent"], wire.store.counters.unsent_replies) == (1, 3)
