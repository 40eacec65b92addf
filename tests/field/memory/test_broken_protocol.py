"""Clients that break the protocol of the kvstore: they get an error, and no other session is harmed."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire_kvstore.host.saved import Declarations
from quire_kvstore.host.state_dir import StateDir
from quire_kvstore.server.task import Task
from quire_kvstore.state import State
from quire_proto import messages as m
from quire_proto.messages import handoff as h
from quire_proto.messages import sharing as a
from quire_proto.messages.tenants import SetQuota
from quire_proto.wire.envelope import Reply, decode_reply
from quire_proto.wire.u32 import U32_MAX, pack_u32
from tests.support.driver import Driver
from tests.support.service import BareService
from tests.support.slow_disk import SlowDisk

X, Y = b"X" * 32, b"Y" * 32


class Sessions(BareService):
    """Several sessions on one store; every message leaves its invariants intact."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._ids = [self.open(bytes([i]) * 16) for i in range(count)]
        self._numbers = dict.fromkeys(range(count), 1)
        self._plain = 1 << 62
        self.answers: list[tuple[int, str]] = []
        self.now = 0

    def says(self, peer: int, op: str, body: object) -> Reply | None:
        """A session's next request; None if the answer comes later, to be found in ``answers``."""
        self.session = self._ids[peer]
        if op == "wait":
            number = self._plain = self._plain + 1
        else:
            number = self._numbers[peer] = self._numbers[peer] + 1
        task = Task(b"%d" % peer, [self.frame(op, number, body)], self.now)
        answer = self.dispatch.handle(task, self.now)
        assert task.slices is None
        self.hear()
        return None if answer is None else decode_reply(answer)

    def hear(self) -> None:
        """What was deferred arrives."""
        for identity, answer in self.dispatch.deferred(self.now):
            self.answers.append((int(identity), decode_reply(answer).body["state"]))
        self.store.check_invariants()
        assert self.store.counters.internal_errors == 0

    def code(self, peer: int, op: str, body: object) -> int:
        """The item code of a reply."""
        reply = self.says(peer, op, body)
        assert reply is not None
        assert reply.code == "", reply
        found = reply.body.get("code", 0)
        assert isinstance(found, int)
        return found


def asks(number: int, digest: bytes, may_wait: int = 0) -> m.Allocate:
    return m.Allocate(number, "t", 4, digest, may_wait=may_wait)


@pytest.mark.source("sebadob/hiqlite#352")
def test_a_successor_that_waits_for_something_else_gives_its_claim_to_the_next() -> None:
    """The other waiter is told at once, and the session that seals the block later gets no internal error."""
    sessions = Sessions(4)
    assert sessions.code(0, "allocate", asks(1, X)) == m.OK
    for peer in (1, 3):
        assert sessions.code(peer, "allocate", asks(2, X, 1)) == m.CLAIMED
        assert sessions.says(peer, "wait", m.Wait(2, X)) is None
    sessions.says(0, "free", m.Free(pack_u32([1])))
    assert sessions.answers == [(1, "yours")]
    assert sessions.code(2, "allocate", asks(3, Y)) == m.OK

    assert sessions.says(1, "wait", m.Wait(2, Y)) is None

    assert sessions.answers[1:] == [(3, "yours")]
    sessions.says(2, "free", m.Free(pack_u32([3])))
    assert sessions.answers[2:] == [(1, "yours")]
    sessions.says(1, "free", m.Free(pack_u32([2])))
    assert sessions.code(0, "allocate", asks(9, X)) == m.OK
    step = sessions.says(0, "step", m.Step(fills=pack_u32([9, 4]), seals=(m.Seal(9, 0, X),)))
    assert step is not None
    assert (step.code, step.body["seals"]) == ("", [{"code": m.OK, "sealed": 1}])


@pytest.mark.source("sebadob/hiqlite#352")
@pytest.mark.parametrize("op", ["fork", "adopt"])
def test_a_number_that_waits_is_in_use(op: str) -> None:
    """Neither a fork nor an adoption gives it a table; the wait goes on and has its answer."""
    sessions = Sessions(3)
    assert sessions.code(0, "allocate", asks(1, X)) == m.OK
    assert sessions.code(1, "allocate", m.Allocate(5, "t", 4)) == m.OK
    assert sessions.code(1, "allocate", asks(2, X, 1)) == m.CLAIMED
    assert sessions.says(1, "wait", m.Wait(2, X)) is None

    if op == "fork":
        assert sessions.code(1, "fork", m.Fork(5, pack_u32([2]), 0)) == m.CONFLICT
    else:
        assert sessions.code(2, "allocate", m.Allocate(7, "t", 4)) == m.OK
        offered = sessions.says(2, "offer", h.Offer(7, sessions._ids[1], 1000))
        assert offered is not None
        refused = sessions.says(1, "adopt", h.Adopt(offered.body["offer"], 2))
        assert refused is not None
        assert refused.code == "CONFLICT"

    sessions.says(0, "free", m.Free(pack_u32([1])))
    assert sessions.answers == [(1, "yours")]


@pytest.mark.source("MonetDB/MonetDB#307")
def test_numbers_that_no_row_can_hold_are_refused() -> None:
    """A priority or a sequence beyond 32 bits is an error of its sender, not internal to the block's owner."""
    sessions = Sessions(2)
    assert sessions.code(0, "allocate", m.Allocate(1, "t", 4, X, priority=1 << 40)) == m.CONFLICT
    assert sessions.code(0, "allocate", m.Allocate(1, "t", 4, X, priority=U32_MAX)) == m.OK
    for wait in (m.Wait(1 << 40, X), m.Wait(2, X, priority=1 << 40)):
        refused = sessions.says(1, "wait", wait)
        assert refused is not None
        assert refused.code == "BAD_FIELD"
    assert sessions.says(0, "step", m.Step()) is not None


@pytest.mark.source("vllm-project/vllm#39146")
def test_a_scrub_that_was_owed_is_not_forgotten_with_a_fork() -> None:
    """A sequence left with a block that is not known to be zeroed copies out of it, and zeroes the new one."""
    driver = Driver(blocks=8)
    session = driver.attach()
    driver.allocate(session, 1, [1] * 32, "other")
    driver.write(session, 1, 32)
    driver.free(session, 1)
    driver.allocate(session, 2, [2] * 6, "me")
    driver.write(session, 2, 6)
    assert driver.fork(session, 2, 3, 6) == m.OK
    driver.extend(session, 3, 7)
    assert driver.fork(session, 3, 4, 6) == m.OK
    driver.free(session, 3)
    driver.check()

    answer = driver.extend(session, 4, 7)

    assert answer.code == m.OK
    assert answer.copies != b""
    assert answer.scrub == answer.blocks
    driver.check()


@pytest.mark.source("MaterializeInc/materialize#27196")
@pytest.mark.parametrize("end", ["fenced", "dead"])
@pytest.mark.parametrize(
    ("op", "body"),
    [
        ("publish", a.Publish("q", "public", pack_u32(range(8)))),
        ("unpublish", a.Unpublish("kept")),
        ("join", a.Join("t", "g")),
        ("leave", a.Leave("u", "g")),
        ("quota", SetQuota("t", limit=3)),
    ],
)
def test_what_is_saved_holds_though_its_session_ended(tmp_path: Path, op: str, body: object, end: str) -> None:
    """A declaration on its way to the disk is true in memory, too, whatever became of the session that asked."""
    wire = BareService()
    state_dir = wire.service.state_dir = StateDir(tmp_path)
    keep = wire.service.declarations = Declarations(state_dir)
    wire.open()
    for first, it in (("publish", a.Publish("kept", "public", pack_u32([1]))), ("join", a.Join("u", "g"))):
        assert wire.ask(first, 1 << 62, it).code == ""
    disk = wire.service.disk = SlowDisk()
    frame = wire.frame(op, 1 << 62, body)
    assert wire.turn(frame) is None
    session = wire.store.state.sessions.get(wire.session)
    assert session is not None
    wire.store.fence(session, 0) if end == "fenced" else wire.store.reclaim(session)
    disk.turn()

    answer = wire.turn(frame)
    assert answer is not None
    assert decode_reply(answer).code == ""

    state, again = wire.store.state, State(32, 4)
    keep.restore_publications(again.publications)
    assert {r.id for r in again.publications.all()} == {r.id for r in state.publications.all()} - {"p"}
    assert keep.groups(()).document() == state.groups.document()
    saved = state_dir.read("quotas") or {"tenants": {}}
    assert set(saved["tenants"]) == set(state.accounts.quotas())
    assert not wire.service.declaring


@pytest.mark.source("opensearch-project/security#3200")
@pytest.mark.parametrize("group", ["quarantine", "public", "", "(g)", "a\nb", "x" * 65])
def test_no_group_has_the_name_of_another_account(group: str) -> None:
    """Reserved and malformed names are refused, and every account is listed once."""
    wire = BareService()
    assert wire.ask("join", 1 << 62, a.Join("t", group)).code == "BAD_FIELD"
    names = [row["tenant"] for row in wire.ask("tenants", 1 << 62).body["tenants"]]
    assert len(set(names)) == len(names)


@pytest.mark.source("opensearch-project/security#3200")
@pytest.mark.parametrize("tenant", ["(public)", "(quarantine)", "a\nb", "\x1b[2J", "x" * 257])
def test_no_tenant_has_the_name_of_another_account(tenant: str) -> None:
    """Asking for its key or its quota is an error, and an allocate is a conflict."""
    sessions = Sessions(1)
    assert sessions.ask("domain", 1 << 62, m.Domain(tenant)).code == "BAD_FIELD"
    assert sessions.ask("quota", 1 << 62, SetQuota(tenant)).code == "BAD_FIELD"
    assert sessions.code(0, "allocate", m.Allocate(1, tenant, 4)) == m.CONFLICT


@pytest.mark.source("opensearch-project/security#3200")
def test_a_reserved_group_on_the_disk_stops_the_start(tmp_path: Path) -> None:
    """The document is named, with the reason."""
    state = StateDir(tmp_path)
    rows = [["quarantine", "t"]]
    state.write("groups", {"joined": rows, "members": rows, "generations": {}})
    with pytest.raises(Exception, match=r"groups\.json: .*reserved; repair it or move it away"):
        Declarations(state).groups(())


@pytest.mark.source("found in our own trials")
def test_a_session_cannot_use_up_the_offers_of_all() -> None:
    """One has its own bound, far below what there may be."""
    sessions = Sessions(3)
    for peer in (0, 2):
        assert sessions.code(peer, "allocate", m.Allocate(0, "t", 1)) == m.OK
    assert sessions.code(0, "fork", m.Fork(0, pack_u32(range(1, 258)), 0)) == m.OK
    codes = [sessions.says(0, "offer", h.Offer(n, sessions._ids[1], 9999)) for n in range(1, 258)]
    assert [reply.code for reply in codes if reply] == [""] * 256 + ["CONFLICT"]
    assert sessions.code(2, "offer", h.Offer(0, sessions._ids[1], 9999)) == m.OK
