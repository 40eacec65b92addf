"""Publishing while the store runs: which peers may, what it pins, what becomes of its sequences, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire_kvstore.host.saved import Declarations
from quire_kvstore.host.state_dir import StateDir
from quire_kvstore.sharing.groups import Groups
from quire_kvstore.sharing.publications import PublicationList
from quire_proto import messages as m
from quire_proto.messages import sharing as a
from quire_proto.wire.digests import domain_key
from quire_proto.wire.envelope import Reply
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.support.service import BareService

SIX = pack_u32([9, 8, 7, 6, 5, 4])  # a block of four and a tail of two


@pytest.fixture
def wire(tmp_path: Path) -> BareService:
    wire = BareService()
    wire.service.declarations = Declarations(StateDir(tmp_path))
    wire.store.state.groups = Groups([("research", "ann"), ("research", "bob")])
    wire.open()
    return wire


def publish(
    wire: BareService, identity: str = "x", domain: str = "public", tokens: bytes = SIX, tenant: str = ""
) -> Reply:
    """One publish."""
    return wire.ask("publish", 1 << 62, a.Publish(identity, domain, tokens, tenant))


def generation(wire: BareService, identity: str) -> int:
    """Generation of a record; 0 if there is none."""
    record = wire.store.state.publications.get(identity)
    return record.generation if record else 0


def allocate(wire: BareService, number: int, tenant: str, tokens: int, identity: str, old: int = 0) -> dict[str, Any]:
    """Allocate under a publication, then acknowledge all as computed; the reply of the allocate."""
    item = m.Allocate(number, tenant, tokens, b"", identity, old or generation(wire, identity))
    reply = wire.ask("allocate", 2 * number, item).body
    wire.ask("step", 2 * number + 1, m.Step(fills=pack_u32((number, tokens))))
    wire.store.check_invariants()
    return reply


def test_a_published_prompt_is_listed_and_shared(wire: BareService) -> None:
    """The list moves, and once a tenant has computed the prompt another one finds it, the tail included."""
    before = wire.store.state.publications.generation

    assert publish(wire).body == {"generation": before + 1, "tokens": 6, "state": "pending"}
    assert wire.ask("heartbeat", 1 << 62, m.Heartbeat()).body["publications_generation"] == before + 1
    assert allocate(wire, 1, "ann", 7, "x").get("computed", 0) == 0
    assert allocate(wire, 2, "eve", 7, "x")["computed"] == 6


def test_who_looked_in_an_old_list_is_told_to_look_again(wire: BareService) -> None:
    """A prompt published a moment ago is not missed by a client with an older list; one without a list is not asked."""
    looked = wire.store.state.publications.generation
    publish(wire)

    def ask(number: int, generation: int) -> int:
        item = m.Allocate(number, "ann", 7, list_generation=generation)
        code: int = wire.ask("allocate", number + 1, item).body["code"]
        return code

    assert ask(1, looked) == m.RETRY
    assert [ask(2, wire.store.state.publications.generation), ask(3, 0)] == [m.OK, m.OK]


def test_the_same_again_changes_nothing(wire: BareService) -> None:
    """Another prompt under the id takes its place and has a generation of its own."""
    first = publish(wire).body
    allocate(wire, 1, "ann", 7, "x")

    assert publish(wire).body == {**first, "state": "ready"}
    other = publish(wire, tokens=SIX + pack_u32([1])).body
    assert (other["tokens"], other["state"]) == (7, "pending")
    assert other["generation"] > first["generation"]
    assert allocate(wire, 2, "bob", 8, "x", old=first["generation"])["code"] == m.RETRY
    assert [p.id for p in wire.store.state.publications.all()] == ["p", "x"]


def test_unpublishing_stops_new_matches_and_gives_the_pins_back(wire: BareService) -> None:
    """A sequence that shares it keeps the blocks; one that names it must match again; at the end nothing is held."""
    publish(wire)
    named = generation(wire, "x")
    allocate(wire, 1, "ann", 9, "x")
    shared = list(unpack_u32(allocate(wire, 2, "bob", 9, "x")["blocks"]))

    assert wire.ask("unpublish", 1 << 62, a.Unpublish("x")).code == ""

    assert allocate(wire, 3, "bob", 9, "x", old=named)["code"] == m.RETRY
    assert int(wire.store.state.pool.refs[shared[0]]) == 2
    wire.ask("free", 8, m.Free(pack_u32([1, 2])))
    assert wire.store.state.pool.counts()["free"] == wire.store.state.pool.size
    assert wire.ask("unpublish", 1 << 62, a.Unpublish("x")).code == "NOT_FOUND"


def test_a_sequence_outlives_its_publication(wire: BareService) -> None:
    """It fills, seals and forks on; a prompt published anew under the id does not become what it computed."""
    publish(wire)
    chain = wire_chain(range(12))
    item = m.Allocate(1, "ann", 12, chain, "x", generation(wire, "x"))
    assert wire.ask("allocate", 2, item).body["code"] == m.OK
    publish(wire, tokens=SIX + pack_u32([1]))

    assert wire.ask("step", 3, m.Step(fills=pack_u32((1, 12)))).body["fills"] == bytes([m.OK])
    assert wire.ask("seal", 4, m.Seal(1, 0, chain)).body["code"] == m.OK
    assert wire.ask("fork", 5, m.Fork(1, pack_u32([2]), 5)).body["code"] == m.OK
    record = wire.store.state.publications.get("x")
    assert record is not None
    assert record.table is None
    assert not session_of(wire).sequences[2].chained
    wire.store.check_invariants()


def wire_chain(tokens: range) -> bytes:
    """Digests of all full blocks of four."""
    return b"".join(bytes([number]) * 32 for number in range(1, len(tokens) // 4 + 1))


def session_of(wire: BareService) -> Any:
    """The open session."""
    return wire.store.state.sessions.get(wire.session)


@pytest.mark.parametrize(
    ("domain", "tenant", "code"),
    [
        ("public", "", ""),
        ("research", "", ""),
        ("research", "ann", ""),
        ("public", "ann", "NOT_PERMITTED"),
        ("research", "eve", "NOT_PERMITTED"),
        ("nobody", "", "BAD_FIELD"),
        ("nobody", "ann", "NOT_PERMITTED"),
    ],
)
def test_who_may_publish(wire: BareService, domain: str, tenant: str, code: str) -> None:
    """The operator to all and to every group there is; a member to its group."""
    assert publish(wire, domain=domain, tenant=tenant).code == code


@pytest.mark.parametrize(("tenant", "code"), [("eve", "NOT_FOUND"), ("ann", ""), ("", "")])
def test_who_may_unpublish(wire: BareService, tenant: str, code: str) -> None:
    """A member what is its group's; a stranger is not even told that it exists."""
    publish(wire, domain="research")

    assert wire.ask("unpublish", 1 << 62, a.Unpublish("x", tenant)).code == code


def test_a_member_takes_nothing_of_the_public(wire: BareService) -> None:
    """What all tenants share is the operator's."""
    publish(wire)

    assert wire.ask("unpublish", 1 << 62, a.Unpublish("x", "ann")).code == "NOT_PERMITTED"


@pytest.mark.parametrize(("identity", "tokens"), [("", SIX), ("../x", SIX), ("x" * 65, SIX), ("x", b"")])
def test_a_bad_record_is_refused(wire: BareService, identity: str, tokens: bytes) -> None:
    """Ids are names, prompts have tokens."""
    assert publish(wire, identity, tokens=tokens).code == "BAD_FIELD"


def test_an_id_stays_in_its_domain(wire: BareService) -> None:
    """A prompt does not move from a group to all tenants by being published again."""
    publish(wire, domain="research")

    assert publish(wire, domain="public").code == "CONFLICT"


def test_the_pin_budget_holds(wire: BareService) -> None:
    """Beyond it publishing is refused and says by how much; taking something back makes room."""
    wire.store.state.publications.budget = 5  # "p" needs three

    assert publish(wire).code == ""
    refused = publish(wire, "y")
    assert (refused.code, refused.body["detail"]) == ("CONFLICT", {"missing": 2})
    assert publish(wire, tokens=pack_u32(range(8))).code == ""
    assert publish(wire, tokens=pack_u32(range(9))).code == "CONFLICT"
    wire.ask("unpublish", 1 << 62, a.Unpublish("p"))
    assert publish(wire, "y").code == ""


def test_a_former_member_misses(wire: BareService) -> None:
    """Members hit a group's publication; a stranger and a member that left are told to match again."""
    publish(wire, domain="research")
    named = generation(wire, "x")
    allocate(wire, 1, "ann", 7, "x")
    assert allocate(wire, 2, "bob", 7, "x")["computed"] == 6
    assert allocate(wire, 3, "eve", 7, "x")["code"] == m.RETRY

    wire.store.state.groups.join("eve", "research")
    assert allocate(wire, 4, "eve", 7, "x")["computed"] == 6
    left = wire.ask("leave", 1 << 62, a.Leave("eve", "research"))

    assert {row["generation"] for row in left.body["members"]} == {2}
    assert allocate(wire, 5, "eve", 7, "x")["code"] == m.RETRY
    assert allocate(wire, 6, "bob", 7, "x", old=named)["code"] == m.RETRY  # the generation moved for all
    assert allocate(wire, 7, "bob", 7, "x")["computed"] == 6


def test_domains_and_their_keys(wire: BareService) -> None:
    """A tenant learns its domains and the keys of its groups, under the present generation, and no others."""
    own = wire.ask("domain", 1 << 62, m.Domain("ann")).body
    group = wire.ask("domain", 1 << 62, m.Domain("ann", "research")).body
    stranger = wire.ask("domain", 1 << 62, m.Domain("eve", "research"))

    assert own["domains"] == {"public": 1, "research": 1}
    assert group["key"] == domain_key(bytes(32), "group:research", 1)
    assert stranger.code == "NOT_PERMITTED"
    assert own["key"] != group["key"]


def test_joining_and_leaving(wire: BareService) -> None:
    """Both may be repeated; what the configuration declares cannot be left; public is no one's to join."""
    for _ in range(2):
        reply = wire.ask("join", 1 << 62, a.Join("eve", "sales"))
        assert reply.body["members"][-1] == {"group": "sales", "tenant": "eve", "generation": 1}
    for _ in range(2):
        assert len(wire.ask("leave", 1 << 62, a.Leave("eve", "sales")).body["members"]) == 2
    assert wire.store.state.groups.generation("sales") == 2
    assert wire.ask("leave", 1 << 62, a.Leave("ann", "research")).code == "CONFLICT"
    assert wire.ask("join", 1 << 62, a.Join("eve", "public")).code == "BAD_FIELD"
    assert wire.ask("join", 1 << 62, a.Join("(eve)", "sales")).code == "BAD_FIELD"
    assert wire.ask("groups", 1 << 62).body == wire.ask("leave", 1 << 62, a.Leave("x", "y")).body


def test_declarations_are_kept(wire: BareService, tmp_path: Path) -> None:
    """What was published and which tenants joined is in the state directory; what was taken back is not."""
    publish(wire, "a")
    publish(wire, "b", domain="research")
    wire.ask("unpublish", 1 << 62, a.Unpublish("a"))
    wire.ask("join", 1 << 62, a.Join("eve", "sales"))

    keep, again = Declarations(StateDir(tmp_path)), PublicationList()
    keep.restore_publications(again)

    assert [(r.id, r.domain, r.packed, r.state) for r in again.all()] == [("b", "research", SIX, "pending")]
    assert ("sales", "eve") in keep.groups([]).members()


def test_what_cannot_be_kept_does_not_count(wire: BareService, tmp_path: Path) -> None:
    """A state directory that cannot be written refuses the change and says why."""
    (tmp_path / "publications").write_text("in the way")
    (tmp_path / "groups.json").mkdir()

    for reply in (publish(wire), wire.ask("join", 1 << 62, a.Join("eve", "sales"))):
        assert reply.code == "CONFLICT"
        assert str(tmp_path) in reply.body["message"]
    assert [p.id for p in wire.store.state.publications.all()] == ["p"]
    assert not wire.store.state.groups.entitled("eve", "sales")


def test_exactly_one_computes_it_without_a_request(wire: BareService) -> None:
    """A pending publication goes to the first that asks; to another once that one gave up; to none when ready."""
    publish(wire)
    named = generation(wire, "x")

    def prefill(number: int, order: int, tokens: int = 6) -> int:
        code: int = wire.ask("allocate", order, m.Allocate(number, "", tokens, b"", "x", named)).body["code"]
        return code

    assert prefill(1, 2, tokens=7) == m.CONFLICT
    assert [prefill(1, 3), prefill(2, 4)] == [m.OK, m.CONFLICT]
    usage = {row.tenant: row.held for row in wire.store.usage()}
    assert usage == {"(public)": 2, "(quarantine)": 0}
    wire.ask("free", 5, m.Free(pack_u32([1])))
    assert prefill(2, 6) == m.OK
    wire.ask("step", 7, m.Step(fills=pack_u32((2, 6))))
    wire.ask("free", 8, m.Free(pack_u32([2])))
    assert prefill(3, 9) == m.CONFLICT
    assert wire.ask("lookup", 1 << 62, m.Lookup("x")).body["tokens"] == 6
    assert wire.ask("allocate", 10, m.Allocate(4, "", 6)).body["code"] == m.CONFLICT
    wire.store.check_invariants()


def test_a_fenced_one_computes_nothing(wire: BareService) -> None:
    """A pending publication does not wait for a session that was fenced."""
    publish(wire)
    item = m.Allocate(1, "", 6, b"", "x", generation(wire, "x"))
    assert wire.ask("allocate", 2, item).body["code"] == m.OK
    wire.store.fence(session_of(wire), 0)
    wire.open(nonce=b"\1" * 16, pid=2)

    assert wire.ask("allocate", 2, item).body["code"] == m.OK
    wire.store.check_invariants()
