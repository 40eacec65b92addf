"""A long request is executed in slices, with others' requests between them."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from quire_kvstore.server.inbox import Inbox
from quire_kvstore.server.task import Task
from quire_kvstore.sessions.session import Session
from quire_proto import messages as m
from quire_proto.messages.tenants import SetQuota
from quire_proto.wire.codec import from_map
from quire_proto.wire.envelope import decode_reply
from quire_proto.wire.u32 import pack_u32
from tests.support.service import LEASE_MS, BareService

SLICE, SLICES, SIZE = 4, 8, 4
BLOCKS = SLICE * SLICES
WHOLE = m.Allocate(2, "t", SIZE * BLOCKS)


class Staged(BareService):
    """A store whose pool is all cache, of one chain, and whose slices are small."""

    def __init__(self) -> None:
        super().__init__(BLOCKS)
        self.store.state.slice_blocks = SLICE
        self.open()
        self.digests = secrets.token_bytes(32 * BLOCKS)
        assert self.ask("allocate", 2, m.Allocate(1, "t", SIZE * BLOCKS, self.digests)).code == ""
        step = m.Step(fills=pack_u32([1, SIZE * BLOCKS]), seals=(m.Seal(1, 0, self.digests),))
        assert self.ask("step", 3, step).code == ""
        assert self.ask("free", 4, m.Free(pack_u32([1]))).code == ""
        assert self.store.state.pool.cached == BLOCKS

    @property
    def own(self) -> Session:
        """The session."""
        session = self.store.state.sessions.get(self.session)
        assert session is not None
        return session

    def rest(self, frame: bytes, now_ms: int = 0) -> tuple[int, bytes]:
        """The turns a request still takes, and its reply."""
        turns = 0
        while (answer := self.turn(frame, now_ms=now_ms)) is None:
            turns += 1
        return turns, answer

    def other(self, *operations: tuple[str, int, Any]) -> tuple[bytes, list[m.Stepped]]:
        """Another session, and its steps."""
        mine = self.session
        theirs = self.open(nonce=b"o" * 16, pid=2)
        replies = [from_map(m.Stepped, self.ask(*one).body) for one in operations]
        self.session = mine
        return theirs, replies


@pytest.fixture
def wire() -> Staged:
    """A full pool."""
    return Staged()


def body(answer: bytes) -> m.Allocated:
    """The reply to an allocate."""
    reply = decode_reply(answer)
    assert reply.code == "", reply.body
    return from_map(m.Allocated, reply.body)


def test_room_is_made_a_slice_at_a_time_and_others_are_served(wire: Staged) -> None:
    """Each turn evicts one slice; a stats and another session's attach lie between; one message was executed."""
    frame = wire.frame("step", 5, m.Step(allocates=(WHOLE,)))
    executed = wire.service.op_times["step"].count
    for turn in range(1, SLICES):
        assert wire.turn(frame) is None
        assert wire.store.counters.evictions == turn * SLICE
        assert wire.ask("stats", 1 << 62).code == ""
    turns, answer = wire.rest(frame)

    (allocated,) = from_map(m.Stepped, decode_reply(answer).body).allocates
    assert (turns, allocated.code, len(allocated.blocks) // 4) == (0, m.OK, BLOCKS)
    assert wire.service.op_times["step"].count == executed + 1
    assert wire.store.counters.allocates == 2


def test_resends_go_on_with_it_and_get_the_same_reply(wire: Staged) -> None:
    """The same bytes on another connection do the next slice; other bytes under its number are refused."""
    frame = wire.frame("allocate", 5, WHOLE)
    assert [wire.turn(frame), wire.turn(frame, b"again"), wire.turn(frame)] == [None] * 3
    assert wire.store.counters.evictions == 3 * SLICE
    assert wire.ask("allocate", 5, m.Allocate(3, "t", 1)).code == "NUMBER_REUSED"
    assert wire.ask("allocate", 6, m.Allocate(3, "t", 1)).code == "OUT_OF_ORDER"
    _, answer = wire.rest(frame)

    assert len(body(answer).blocks) // 4 == BLOCKS
    assert wire.turn(frame, b"again") == answer
    assert wire.store.counters.resends == 1


def test_what_is_hit_is_not_evicted_meanwhile(wire: Staged) -> None:
    """The prefix of the request is the oldest in the cache, and stays."""
    hit = 2 * SLICE
    lacking = secrets.token_bytes(32 * (BLOCKS - hit))
    frame = wire.frame("allocate", 5, m.Allocate(2, "t", SIZE * BLOCKS, wire.digests[: 32 * hit] + lacking))
    turns, answer = wire.rest(frame)

    assert (turns, body(answer).computed) == (SLICES - 3, SIZE * hit)


def test_a_hit_that_ends_inside_a_block_is_copied_when_all_is_there(wire: Staged) -> None:
    """The source of the copy is held from the first slice on and evicted by none."""
    wire.store.state.slice_blocks = 1
    hit = m.Allocate(2, "t", SIZE * 6, wire.digests[: 32 * 6], reserve=SIZE * BLOCKS - SIZE)
    turns, answer = wire.rest(wire.frame("allocate", 5, hit))

    assert turns > 1
    assert (body(answer).computed, len(body(answer).copies) // 16) == (SIZE * 6 - 1, 1)
    assert wire.ask("free", 6, m.Free(pack_u32([2]))).code == ""
    wire.store.check_invariants()


def test_if_others_take_what_it_still_needs_it_gives_all_back(wire: Staged) -> None:
    """No space, and its blocks are free again, and its claim is any sequence's to take."""
    names = secrets.token_bytes(32 * BLOCKS)
    frame = wire.frame("allocate", 5, m.Allocate(2, "t", SIZE * BLOCKS, names))
    assert wire.turn(frame) is None
    waits = m.Step(allocates=(m.Allocate(1, "t", SIZE * BLOCKS, names, may_wait=1), m.Allocate(2, "t", SIZE)))
    _, (stepped,) = wire.other(("step", 2, waits))
    assert [one.code for one in stepped.allocates] == [m.CLAIMED, m.OK]
    _, answer = wire.rest(frame)

    assert (body(answer).code, body(answer).missing) == (m.NO_SPACE, 1)
    assert wire.own.sequences == {}
    assert wire.store.state.claims.all() == []
    assert wire.store.state.pool.free >= SLICE - 1


def test_its_session_is_fenced_between_two_slices(wire: Staged) -> None:
    """What it had is in quarantine; the next turn says so and ends it; all comes back with the process's death."""
    frame = wire.frame("allocate", 5, WHOLE)
    assert wire.turn(frame) is None
    (fenced,) = wire.store.judge_leases(LEASE_MS + 1)
    assert wire.store.state.pool.counts()["quarantined"] == SLICE
    turns, answer = wire.rest(frame, LEASE_MS + 1)

    assert (turns, decode_reply(answer).code) == (0, "STALE_SESSION")
    assert wire.store.reclaim(fenced) == SLICE
    wire.store.check_invariants()
    assert wire.store.state.pool.counts()["held"] == 0


def test_its_process_dies_between_two_slices(wire: Staged) -> None:
    """The session is gone with all it had; the request that is left in the queue finds no session."""
    frame = wire.frame("allocate", 5, WHOLE)
    assert wire.turn(frame) is None
    assert wire.store.reclaim(wire.own) == SLICE
    turns, answer = wire.rest(frame)

    assert (turns, decode_reply(answer).code) == (0, "STALE_SESSION")
    assert wire.store.state.pool.counts()["held"] == 0


def test_its_deadline_is_for_its_beginning(wire: Staged) -> None:
    """A request that began in time is executed to its end."""
    frame = wire.frame("allocate", 5, WHOLE, deadline_ms=10)
    assert wire.turn(frame, now_ms=10) is None
    _, answer = wire.rest(frame, 1000)

    assert body(answer).code == m.OK


def test_what_cannot_be_had_evicts_nothing(wire: Staged) -> None:
    """No space is said at once."""
    _, (stepped,) = wire.other(("step", 2, m.Step(allocates=(m.Allocate(1, "t", SIZE),))))
    assert stepped.allocates[0].code == m.OK
    before = wire.store.counters.evictions
    turns, answer = wire.rest(wire.frame("allocate", 5, WHOLE))

    assert (turns, body(answer).code) == (0, m.NO_SPACE)
    assert wire.store.counters.evictions == before


def test_a_quota_set_between_two_slices_holds(wire: Staged) -> None:
    """A limit that it would exceed ends it, and is not exceeded."""
    frame = wire.frame("allocate", 5, WHOLE)
    assert wire.turn(frame) is None
    assert wire.ask("quota", 1 << 62, SetQuota("t", limit=2 * SLICE)).code == ""
    _, answer = wire.rest(frame)

    assert (body(answer).code, body(answer).scope) == (m.NO_SPACE, "limit")


def test_many_are_given_up_a_few_at_a_time(wire: Staged) -> None:
    """A step that frees many sequences and seals much rests between two of them; each is freed once."""
    wire.store.state.slice_blocks = 1
    many = list(range(10, 26))
    _, answer = wire.rest(wire.frame("allocate", 5, m.Allocate(9, "t", SIZE * 8)))
    assert body(answer).code == m.OK
    wire.ask("step", 6, m.Step(fills=pack_u32([9, SIZE * 8]), forks=(m.Fork(9, pack_u32(many), SIZE * 8),)))
    turns, answer = wire.rest(wire.frame("free", 7, m.Free(pack_u32(many))))

    assert turns == len(many) * 8 // 32 - 1
    assert from_map(m.Freed, decode_reply(answer).body).codes == bytes(len(many))
    assert list(wire.own.sequences) == [9]


def test_what_was_put_back_is_the_next_of_its_connection() -> None:
    """Even beyond the number of requests that may wait, and before those that came after it."""
    inbox = Inbox(most=2)
    tasks = [Task(b"a", [bytes([i])], 0) for i in range(3)]
    assert inbox.put(tasks[0])
    assert inbox.put(tasks[1])
    assert inbox.round() == [tasks[0]]
    assert inbox.put(tasks[2])
    inbox.put_back(tasks[0])
    assert not inbox.put(Task(b"a", [b"busy"], 0))

    assert [inbox.round()[0] for _ in range(3)] == tasks
