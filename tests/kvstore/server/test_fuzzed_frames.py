"""A hundred thousand damaged frames: each gets exactly one reply, and a refused one changes nothing."""

from __future__ import annotations

from collections import Counter

from quire_kvstore.server.task import Task
from quire_kvstore.sharing.change_log import Journal
from quire_proto import messages as m
from quire_proto.op_table import OPS
from quire_proto.wire.envelope import decode_reply
from quire_proto.wire.errors import BY_CODE
from tests.support.frame_fuzzer import TARGET, Fuzzer
from tests.support.service import BareService

FRAMES = 100_000
LIFE = 500  # frames until the session is opened anew, because some of them detach it or use up the pool


def snapshot(wire: BareService) -> tuple[object, ...]:
    """All of the store that a refused request must not touch."""
    state = wire.store.state
    sessions = [(s.id, s.state, len(s.sequences), len(s.copies)) for s in state.sessions.all()]
    pool = state.pool
    arrays = pool.refs.tobytes(), pool.quarantined_refs.tobytes(), pool.sealed.tobytes(), state.appender.tobytes()
    declared = state.publications.messages(), state.publications.generation, state.groups.members()
    return sessions, arrays, pool.free, pool.cached, len(state.index), declared


def fresh(life: int) -> BareService:
    """A store with one session that holds a sequence, and a journal that is never read."""
    wire = BareService(blocks=64)
    wire.service.events = m.Events("ipc:///live", "ipc:///replay", "", "all", "int")
    wire.store.state.index.journal = Journal()
    assert wire.open(b"target-session..", pid=2) == TARGET
    wire.open(life.to_bytes(16, "big"))
    assert wire.ask("allocate", 2, m.Allocate(1, "t", 20)).code == ""
    return wire


def test_fuzzed_frames_get_a_reply_and_change_nothing() -> None:
    """No exception, no silence, no INTERNAL; a store that differs only by requests that were accepted."""
    fuzzer, codes, executed = Fuzzer(20_26), Counter[str](), Counter[str]()
    for life in range(FRAMES // LIFE):
        wire = fresh(life)
        before = snapshot(wire)
        for _ in range(LIFE):
            session = wire.store.state.sessions.get(wire.session)
            number = session.window.next_number if session else 0
            frame = fuzzer.frame(wire.service.boot, wire.session, number)
            answer = wire.dispatch.handle(Task(b"fuzz", [frame], 0), 0)
            assert answer is not None, "there is nothing to wait for"
            reply = decode_reply(answer)
            after = snapshot(wire)
            codes[reply.code] += 1
            assert not reply.code or reply.code in BY_CODE
            assert not reply.code or after == before, f"{reply.code} changed the store: {frame!r}"
            before = after
        wire.store.check_invariants()
        assert wire.store.counters.internal_errors == 0
        executed += Counter({op: times.count for op, times in wire.service.op_times.items()})

    assert codes.total() == FRAMES
    # The fuzzer reaches every layer: frames, versions, ops, fields, limits, order, sessions, and real execution.
    reached = {"", "BAD_FRAME", "BAD_VERSION", "UNKNOWN_OP", "BAD_FIELD", "TOO_LARGE", "OUT_OF_ORDER", "STALE_SESSION"}
    assert reached <= set(codes), codes
    # An adopt needs an offer made by another session; its tests are in test_offering.
    assert set(executed) == set(OPS) - {"adopt"}
