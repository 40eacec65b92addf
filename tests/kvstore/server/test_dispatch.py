"""Dispatch: order, resends, checks and errors, without a socket."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from quire_kvstore.ops import query
from quire_kvstore.server.handlers import HANDLERS, SEQUENCE_OPS
from quire_kvstore.server.task import Task
from quire_proto import messages as m
from quire_proto.messages.sharing import Publish
from quire_proto.op_table import OPS
from quire_proto.wire.codec import from_map
from quire_proto.wire.envelope import VERSION, decode_reply
from quire_proto.wire.errors import BY_CODE
from quire_proto.wire.u32 import pack_u32
from tests.support.service import LAYOUT, LEASE_MS, BareService


@pytest.fixture
def wire() -> BareService:
    wire = BareService()
    wire.open()
    return wire


def allocate(sequence: int, tokens: int = 8) -> m.Allocate:
    return m.Allocate(sequence, "t", tokens)


# --- order and resends -------------------------------------------------------------------------------------------


def test_a_resend_gets_the_same_bytes_and_changes_nothing(wire: BareService) -> None:
    """The second copy of a request is answered from the window."""
    frame = wire.frame("allocate", 2, allocate(1))
    first = wire.dispatch.handle(Task(b"a", [frame], 0), 0)
    wire.ask("free", 3, m.Free(pack_u32([1])))

    assert wire.dispatch.handle(Task(b"b", [frame], 9), 9) == first
    assert wire.store.counters.resends == 1
    assert wire.store.state.pool.free == 32


def test_a_gap_is_refused_and_not_consumed(wire: BareService) -> None:
    """A number ahead of the next one names the one expected; that one is still open."""
    reply = wire.ask("allocate", 3, allocate(1))

    assert (reply.code, reply.body["detail"]) == ("OUT_OF_ORDER", {"expected": 2})
    assert wire.ask("allocate", 2, allocate(1)).code == ""
    assert wire.ask("allocate", 3, allocate(2)).code == ""


def test_a_number_with_other_bytes_is_refused(wire: BareService) -> None:
    """Same number, other request: an error, and the first one's reply stays."""
    frame = wire.frame("allocate", 2, allocate(1))
    first = wire.send(frame)

    assert wire.ask("allocate", 2, allocate(2)).code == "NUMBER_REUSED"
    assert wire.send(frame) == first
    assert wire.store.state.pool.free == 30


def test_the_window_holds_eight_replies(wire: BareService) -> None:
    """The eighth last reply can be asked for again, the ninth last cannot."""
    frames = {number: wire.frame("step", number, m.Step()) for number in range(2, 12)}
    for frame in frames.values():
        wire.send(frame)

    assert wire.send(frames[4]).code == ""
    assert wire.send(frames[3]).code == "NUMBER_REUSED"


@pytest.mark.parametrize(
    ("op", "body", "code"),
    [
        ("allocate", {"sequence": 1}, "BAD_FIELD"),
        ("allocate", {"sequence": 1, "tenant": "t", "tokens": 4, "colour": 1}, "BAD_FIELD"),
        ("allocate", {"sequence": 1, "tenant": "t", "tokens": "4"}, "BAD_FIELD"),
        ("free", {"sequences": b"\0\0\0"}, "BAD_FIELD"),
        ("allocate", {"sequence": 1, "tenant": "t", "tokens": 4 * 32 + 1}, "TOO_LARGE"),
        ("extend", {"sequence": 1, "tokens": 4 * 32 + 1}, "TOO_LARGE"),
        ("free", {"sequences": bytes(4 * 8193)}, "TOO_LARGE"),
    ],
)
def test_a_refused_ordered_request_consumes_its_number(
    wire: BareService, op: str, body: dict[str, Any], code: str
) -> None:
    """A bad body is answered once and for all: its resend gets the same reply, the next number is open."""
    frame = wire.frame(op, 2, body)

    assert wire.send(frame).code == code
    assert wire.send(frame).code == code
    assert wire.store.counters.resends == 1
    assert wire.ask("step", 3, m.Step()).code == ""


def test_a_passed_deadline_consumes_the_number_and_executes_nothing(wire: BareService) -> None:
    """The deadline counts from receipt, and only until execution begins."""
    late = wire.frame("allocate", 2, allocate(1), deadline_ms=50)

    assert wire.send(late, received_ms=100, now_ms=151).code == "DEADLINE"
    assert wire.store.state.pool.free == 32
    assert wire.send(wire.frame("allocate", 3, allocate(1), deadline_ms=50), received_ms=100, now_ms=150).code == ""


# --- sessions ----------------------------------------------------------------------------------------------------


def test_another_boot_id_is_stale(wire: BareService) -> None:
    """A client that believes in another boot learns it on any op, even on one that needs no session."""
    assert wire.ask("step", 2, m.Step(), boot=b"x" * 16).code == "STALE_SESSION"
    assert wire.ask("stats", 0, boot=b"x" * 16).code == "STALE_SESSION"
    assert wire.ask("stats", 0, boot=b"").code == ""


def test_an_unknown_session_is_stale(wire: BareService) -> None:
    """A session that was never opened, ordered op or not."""
    assert wire.ask("step", 2, m.Step(), session=b"y" * 16).code == "STALE_SESSION"
    assert wire.ask("heartbeat", 0, session=b"y" * 16).code == "STALE_SESSION"


def test_the_same_nonce_opens_the_same_session() -> None:
    """A resent attach opens nothing new; the nonce with another token is refused; a token serves once."""
    wire = BareService()
    token, other = wire.service.admit(1).token, wire.service.admit(2).token
    body = {"nonce": b"n" * 16, "token": token}

    first, again = wire.ask("attach", 0, body), wire.ask("attach", 5, body)

    assert first.body == again.body
    assert len(wire.store.state.sessions) == 1
    assert wire.ask("attach", 0, {**body, "token": other}).code == "NOT_PERMITTED"
    assert wire.ask("attach", 0, {**body, "nonce": b"m" * 16}).code == "NOT_PERMITTED"


def test_attach_compares_layouts_field_by_field() -> None:
    """Another layout is refused naming the fields; the display name may differ; none at all is accepted."""
    wire = BareService()
    other = {
        "model": "other name",
        "weights": "w1",
        "rope": "{}",
        "adapter": "",
        "dtype": "bfloat16",
        "block_size": 4,
        "num_layers": 1,
        "num_kv_heads": 1,
        "head_dim": 8,
    }

    refused = wire.ask("attach", 0, {"nonce": b"n" * 16, "layout": other})
    same = wire.ask("attach", 0, {"nonce": b"n" * 16, "layout": {**other, "weights": "w0", "dtype": "float32"}})

    assert (refused.code, refused.body["detail"]) == ("LAYOUT_MISMATCH", {"fields": ["weights", "dtype"]})
    assert same.code == ""
    assert wire.ask("attach", 0, {"nonce": b"m" * 16}).code == ""
    assert wire.ask("attach", 0, {"nonce": b"o" * 16, "gpu_uuid": "GPU-1"}).code == "LAYOUT_MISMATCH"


def test_the_handshake_says_all_a_client_needs() -> None:
    """Layout, arena, lease, limits and publications are in the reply."""
    wire = BareService()
    reply = from_map(m.Attached, wire.ask("attach", 0, {"nonce": b"n" * 16}).body)

    assert (reply.layout, reply.num_blocks, reply.lease_ms) == (LAYOUT, 32, LEASE_MS)
    assert reply.limits == m.Limits(16 * 1024 * 1024, 8192, 32, 8)
    assert [(p.id, p.state, p.generation) for p in reply.publications] == [("p", "pending", 1)]


def test_a_session_without_a_token_only_reads() -> None:
    """It may beat and look, and neither become ready nor ask for keys or blocks."""
    wire = BareService()
    wire.session = wire.ask("attach", 0, {"nonce": b"n" * 16}).body["session"]

    assert wire.ask("heartbeat", 0).code == ""
    assert wire.ask("lookup", 0, m.Lookup("p")).code == ""
    assert wire.ask("ready", 1).code == "NOT_PERMITTED"
    assert wire.ask("domain", 0, m.Domain("t")).code == "NOT_PERMITTED"
    assert wire.ask("allocate", 2, allocate(1)).code == "NOT_PERMITTED"


def test_blocks_need_a_ready_session() -> None:
    """Before ``ready`` a session holds nothing."""
    wire = BareService()
    token = wire.service.admit(1).token
    wire.session = wire.ask("attach", 0, {"nonce": b"n" * 16, "token": token}).body["session"]

    assert wire.ask("allocate", 1, allocate(1)).code == "NOT_PERMITTED"
    assert wire.ask("ready", 2).code == ""
    assert wire.ask("allocate", 3, allocate(1)).code == ""
    assert wire.ask("allocate", 1, allocate(1), session=b"").code == "NOT_PERMITTED"


def test_a_fenced_session_may_only_detach(wire: BareService) -> None:
    """Its next message tells it; detach is the acknowledgement that gives its blocks back."""
    wire.ask("allocate", 2, allocate(1))
    session = wire.store.state.sessions.get(wire.session)
    assert session is not None
    wire.store.fence(session, 0)

    assert wire.ask("heartbeat", 0).code == "STALE_SESSION"
    assert wire.ask("step", 3, m.Step()).code == "STALE_SESSION"
    assert wire.store.state.pool.counts()["quarantined"] == 2
    assert wire.ask("detach", 4).body == {"references": 2}
    assert wire.store.state.pool.counts()["free"] == 32


def test_a_resent_detach_is_answered_although_the_session_is_gone(wire: BareService) -> None:
    """The window of a detached session outlives it for a while; anything new is stale."""
    frame = wire.frame("detach", 2)
    first = wire.send(frame)

    assert (first.code, wire.send(frame)) == ("", first)
    assert wire.ask("step", 3, m.Step()).code == "STALE_SESSION"


def test_heartbeats_renew_the_lease_outside_the_order(wire: BareService) -> None:
    """Their numbers mean nothing and their progress is shown."""
    reply = wire.send(wire.frame("heartbeat", 1 << 62, m.Heartbeat(7)), now_ms=3000)

    assert reply.body == {"lease_ms": LEASE_MS, "publications_generation": 1}
    stats = from_map(m.Stats, wire.send(wire.frame("stats", 0), now_ms=4000).body)
    assert (stats.sessions[0].progress, stats.sessions[0].lease_ms_left) == (7, LEASE_MS - 1000)


def test_domain_keys_differ_by_tenant_and_are_stable(wire: BareService) -> None:
    """The key of a tenant is its own and the same each time."""
    one, again, other = (wire.ask("domain", 0, m.Domain(t)).body["key"] for t in ("a", "a", "b"))

    assert (len(one), one == again, one == other) == (32, True, False)


# --- reading -----------------------------------------------------------------------------------------------------


def test_stats_adds_up(wire: BareService) -> None:
    """Blocks by state, slots, counters, ops and sessions are those of the store."""
    wire.ask("allocate", 2, allocate(1, 6))
    wire.ask("step", 3, m.Step(fills=pack_u32([1, 6])))

    stats = from_map(m.Stats, wire.ask("stats", 0, session=b"").body)

    assert stats.blocks == {"total": 32, "free": 30, "held": 2, "cached": 0, "quarantined": 0}
    assert stats.slots == {"filled": 6, "capacity": 8}
    assert (stats.counters["computed_tokens"], stats.counters["prompt_tokens"]) == (6, 6)
    assert stats.ops == {"attach": 1, "ready": 1, "allocate": 1, "step": 1}
    assert {op: sum(times.counts) for op, times in stats.op_times.items()} == stats.ops
    busy = sum(times.total for times in stats.op_times.values())
    assert busy == pytest.approx(stats.counters["busy_us"] / 1e6, abs=1e-6 * len(stats.ops))
    assert [(s.name, s.state, s.sequences, s.blocks) for s in stats.sessions] == [("engine-1", "ready", 1, 2)]


def test_brief_stats_leave_out_what_grows(wire: BareService) -> None:
    """Slots and tokens of publications are empty; whatever else there is stands as without it."""
    wire.ask("publish", 0, Publish("p", "public", pack_u32(range(9))), session=b"")
    whole = from_map(m.Stats, wire.ask("stats", 0, session=b"").body)
    brief = from_map(m.Stats, wire.ask("stats", 0, m.AskStats(brief=True), session=b"").body)

    assert brief.slots == {}
    assert whole.slots.keys() == {"filled", "capacity"}
    assert [(one.id, one.state, one.tokens) for one in brief.publications] == [("p", "pending", b"")]
    assert (len(whole.publications[0].tokens), brief.blocks) == (36, whole.blocks)
    assert brief.counters.keys() == whole.counters.keys()


def test_reading_needs_no_session(wire: BareService) -> None:
    """stats, tenants, publications and lookup answer any peer at the socket; an unknown publication is NOT_FOUND."""
    for op in ("stats", "tenants", "publications", "lookup"):
        assert wire.ask(op, 0, session=b"").code == ""
    assert wire.ask("lookup", 0, m.Lookup("nothing"), session=b"").code == "NOT_FOUND"


# --- malformed ---------------------------------------------------------------------------------------------------


def test_a_kvstore_without_events_says_so(wire: BareService) -> None:
    """``events`` is UNSUPPORTED, a malformed one BAD_FIELD, an unknown op UNKNOWN_OP."""
    assert wire.ask("events", 0).code == "UNSUPPORTED"
    assert wire.ask("events", 0, {"nonsense": 1}).code == "BAD_FIELD"
    assert wire.ask("events?", 0).code == "UNKNOWN_OP"


@pytest.mark.parametrize(
    ("frames", "number", "code"),
    [
        ([], 0, "BAD_FRAME"),
        ([b""], 0, "BAD_FRAME"),
        ([b"\xc1"], 0, "BAD_FRAME"),
        ([msgpack.packb([VERSION, b"", b"", 7, "stats", 0, {}]), b""], 7, "BAD_FRAME"),
        ([msgpack.packb([VERSION, b"", b"", 7, "stats", 0])], 7, "BAD_FRAME"),
        ([msgpack.packb([VERSION, b"short", b"", 7, "stats", 0, {}])], 7, "BAD_FRAME"),
        ([msgpack.packb([VERSION, b"", b"", -7, "stats", 0, {}])], 0, "BAD_FRAME"),
        ([msgpack.packb([VERSION + 1, b"", b"", 7, "stats", 0, {}])], 7, "BAD_VERSION"),
        ([msgpack.packb([True, b"", b"", 7, "stats", 0, {}])], 7, "BAD_FRAME"),
        ([msgpack.packb({"version": 1})], 0, "BAD_FRAME"),
        ([b"\xc6" + bytes(17 * 1024 * 1024)], 0, "TOO_LARGE"),
    ],
)
def test_a_malformed_frame_gets_an_error_with_the_number_if_readable(
    wire: BareService, frames: list[bytes], number: int, code: str
) -> None:
    """Never an exception, never silence."""
    frame = wire.dispatch.handle(Task(b"peer", frames, 0), 0)
    assert frame is not None
    reply = decode_reply(frame)

    assert (reply.number, reply.code) == (number, code)
    assert code in BY_CODE
    assert reply.boot == wire.service.boot


def test_every_op_has_a_handler() -> None:
    """What the op table names is carried out, and nothing else."""
    assert sorted([*SEQUENCE_OPS, *HANDLERS]) == sorted(OPS)


@pytest.mark.parametrize("op", ["stats", "step"])
def test_a_bug_of_ours_becomes_internal(wire: BareService, monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    """An exception in a handler is logged and answered; the next request is served."""

    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(query, "slots", broken)
    monkeypatch.setitem(SEQUENCE_OPS, "step", broken)

    assert wire.ask(op, 2).code == "INTERNAL"
    assert wire.store.counters.internal_errors == 1
    assert wire.ask("tenants", 0).code == ""
    assert wire.ask("free", 3 if OPS[op].ordered else 2, m.Free(b"")).code == ""
