"""KVClient against a real kvstore: calls, resends, limits, restarts."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from quire_proto.client.client import KVClient, KVReader
from quire_proto.messages import OK, Empty, Fork, Step
from quire_proto.op_table import Needs, Op
from quire_proto.wire.errors import (
    BadRequest,
    KvstoreUnreachable,
    LayoutMismatch,
    LimitError,
    LocalError,
    NoSpace,
    NotFound,
    QuireError,
    StaleSession,
)
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32
from tests.proto.kvstore import LAYOUT
from tests.proto.proxy import Proxy
from tests.support.kvstore import Kvstore
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
ProxyTo = Callable[[Kvstore], Proxy]
Start = Callable[..., Kvstore]


def test_a_session_comes_and_goes(shared_kvstore: Kvstore) -> None:
    """Entering attaches, maps and reports ready; leaving gives everything back."""
    with KVClient(shared_kvstore.run_dir, name="one", layout=LAYOUT) as client:
        (session,) = client.stats().sessions
        assert (session.name, session.state) == ("one", "ready")
        assert client.lease_valid()
        assert client.allocate(sequence=1, tenant="a", tokens=9).code == OK
        assert client.layout.block_size == client.block_size == 4
        assert len(client.map()) == LAYOUT.arena_bytes(client.num_blocks)

    stats = shared_kvstore.stats()
    assert stats.sessions == ()
    assert stats.blocks["held"] == 0
    assert client.lost_reason is None
    with pytest.raises(LocalError, match="closed"):
        client.stats()


def test_named_methods_cover_a_sequence_s_life(shared_kvstore: Kvstore) -> None:
    """Allocate, extend, fork with its copy, seal, hit and free, each by its own method."""
    with KVClient(shared_kvstore.run_dir) as client:
        chain = client.chain("life", pack_u32(range(10)))
        table = client.allocate(sequence=1, tenant="life", tokens=10, digests=chain.digests())
        assert len(unpack_u32(table.blocks)) == 3
        assert client.extend(sequence=1, tokens=10).code == OK
        assert client.step(Step(fills=pack_u32([1, 10]))).fills == bytes([OK])
        assert client.seal(sequence=1, first=0, digests=chain.digests()).sealed == 2
        assert client.fork(parent=1, children=[2, 3], tokens=10).code == OK
        ((_, src, dst, slots),) = unpack_rows(client.extend(sequence=2, tokens=11).copies, 4)
        assert (src, slots) == (unpack_u32(table.blocks)[2], 2)
        assert dst not in unpack_u32(table.blocks)
        again = client.allocate(sequence=4, tenant="life", tokens=10, digests=chain.digests())
        assert again.computed == 8
        other = client.chain("somebody-else", pack_u32(range(10)))
        private = client.allocate(sequence=5, tenant="somebody-else", tokens=10, digests=other.digests())
        assert private.computed == 0
        assert client.lookup(digests=chain.digests()).tokens == 8
        assert client.free([1, 2, 3, 4, 5]).codes == bytes(5)
        assert client.allocate(sequence=6, tenant="life", tokens=4 * 32).code == OK
        with pytest.raises(NoSpace) as caught:
            client.allocate(sequence=7, tenant="life", tokens=4)
        full = caught.value
        assert (full.code, full.missing, full.scope) == ("NO_SPACE", 1, "pool")


def test_the_publication_list_is_there_from_the_start(shared_kvstore: Kvstore) -> None:
    """Attach brings the list, requests are matched against it, and it can be fetched again."""
    with KVClient(shared_kvstore.run_dir) as client:
        found = client.publications.match(pack_u32(range(100, 120)))
        assert found is not None
        assert (found.id, client.publications_stale) == ("system", False)
        client.refresh_publications()
        assert client.publications.match(pack_u32(range(100, 105))) is None


def test_reading_needs_no_session(shared_kvstore: Kvstore) -> None:
    """A reader asks for counters, tenants and blocks, and attaches nothing."""
    with KVReader(shared_kvstore.run_dir) as reader:
        assert reader.stats().sessions == ()
        assert {usage.tenant for usage in reader.tenants().tenants} >= {"(public)", "(quarantine)"}
        assert reader.lookup(publication="system").tokens == 0
        assert [p.id for p in reader.fetch_publications().publications] == ["system"]
        with pytest.raises(NotFound, match="nothing"):
            reader.lookup(publication="nothing")


def test_another_layout_is_refused_by_field(shared_kvstore: Kvstore) -> None:
    """An engine whose layout differs does not attach, and learns which field it is."""
    wrong = dataclasses.replace(LAYOUT, head_dim=16)

    with pytest.raises(LayoutMismatch, match="head_dim") as caught:
        KVClient(shared_kvstore.run_dir, layout=wrong)
    assert caught.value.detail["fields"] == ["head_dim"]
    assert shared_kvstore.stats().sessions == ()


def test_limits_are_checked_before_sending(shared_kvstore: Kvstore) -> None:
    """A request over a limit is a LimitError, consumes no number, and the kvstore never sees it."""
    with KVClient(shared_kvstore.run_dir) as client:
        before = shared_kvstore.stats().counters["errors"]
        with pytest.raises(LimitError, match="blocks"):
            client.allocate(sequence=1, tenant="a", tokens=4 * client.limits.blocks + 1)
        with pytest.raises(LimitError, match="items"):
            client.free(range(client.limits.items + 1))
        assert client.allocate(sequence=1, tenant="a", tokens=4).code == OK
        assert shared_kvstore.stats().counters["errors"] == before


def test_a_refused_request_does_not_disturb_the_numbers(shared_kvstore: Kvstore) -> None:
    """An error reply consumes its number like any reply: the next request is in order."""
    with KVClient(shared_kvstore.run_dir) as client:
        malformed = Op("fork", Fork, Empty, Needs.ACTIVE, ordered=True)
        with pytest.raises(BadRequest, match="children"):
            client.call(malformed, Fork(1, b"abc", 0))
        assert client.allocate(sequence=1, tenant="a", tokens=4).code == OK


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_a_lost_frame_is_sent_again_and_applied_once(shared_kvstore: Kvstore, proxy_to: ProxyTo, lost: str) -> None:
    """The resend carries identical bytes; whichever way was lost, the op is applied exactly once."""
    proxy = proxy_to(shared_kvstore)
    before = shared_kvstore.stats().counters
    with KVClient(proxy.run_dir, resend=0.2) as client:
        (proxy.lose_requests if lost == "request" else proxy.lose_replies).append("allocate")
        reply = client.allocate(sequence=1, tenant="a", tokens=9)
        assert (reply.code, len(unpack_u32(reply.blocks))) == (OK, 3)

    sent = [frame for op, frame in proxy.seen if op == "allocate"]
    after = shared_kvstore.stats().counters
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert after["allocates"] - before["allocates"] == 1
    assert after["resends"] - before["resends"] == (lost == "reply")


def test_a_busy_kvstore_is_asked_again_when_it_said(shared_kvstore: Kvstore, proxy_to: ProxyTo) -> None:
    """BUSY is answered with the same bytes after its retry_after_ms: long before the resend."""
    proxy = proxy_to(shared_kvstore)
    with KVClient(proxy.run_dir, timeout=20.0, resend=20.0) as client:
        proxy.busy = ["allocate", "allocate", "stats"]
        assert client.allocate(sequence=1, tenant="a", tokens=9).code == OK
        assert client.stats().blocks["held"] == 3
    sent = [frame for op, frame in proxy.seen if op == "allocate"]
    assert (len(sent), len(set(sent))) == (3, 1)


@pytest.mark.parametrize("op", ["attach", "ready", "stats"])
def test_every_kind_of_request_survives_a_lost_reply(shared_kvstore: Kvstore, proxy_to: ProxyTo, op: str) -> None:
    """Attach is deduplicated by its nonce, ready by its number; reading may simply happen twice."""
    proxy = proxy_to(shared_kvstore)
    proxy.lose_replies.append(op)
    with KVClient(proxy.run_dir, resend=0.2) as client:
        assert [s.state for s in client.stats().sessions] == ["ready"]
    assert [name for name, _ in proxy.seen].count(op) >= 2  # more on a machine that answers late


def test_a_second_copy_of_a_reply_is_ignored(shared_kvstore: Kvstore, proxy_to: ProxyTo) -> None:
    """A reply that answers nothing in flight is dropped by its number, not taken for the next one."""
    proxy = proxy_to(shared_kvstore)
    proxy.double_replies += ["allocate", "extend"]
    with KVClient(proxy.run_dir) as client:
        for sequence in range(4):
            table = client.allocate(sequence=sequence, tenant="a", tokens=4 * (sequence + 1))
            assert len(unpack_u32(table.blocks)) == sequence + 1
            assert client.extend(sequence=sequence, tokens=4 * (sequence + 2)).first == sequence + 1


def test_an_ordered_request_without_any_reply_ends_the_session(shared_kvstore: Kvstore, proxy_to: ProxyTo) -> None:
    """It is not known whether it was applied, so the session is lost; its goodbye still frees what it held."""
    proxy = proxy_to(shared_kvstore)
    lost: list[QuireError] = []
    with KVClient(proxy.run_dir, timeout=0.5, resend=0.2, on_lost=lost.append) as client:
        proxy.lose_replies.append("allocate*")
        with pytest.raises(KvstoreUnreachable, match="allocate"):
            client.allocate(sequence=1, tenant="a", tokens=9)
        assert client.lost.is_set()
        assert not client.lease_valid()
        with pytest.raises(KvstoreUnreachable):
            client.stats()
        assert lost == [client.lost_reason]
    assert shared_kvstore.stats().sessions == ()


def test_a_timeout_of_a_reading_op_ends_nothing(shared_kvstore: Kvstore, proxy_to: ProxyTo) -> None:
    """An unordered op leaves no gap: the session goes on."""
    proxy = proxy_to(shared_kvstore)
    with KVClient(proxy.run_dir, timeout=0.5, resend=0.2) as client:
        proxy.lose_requests += ["stats"] * 3
        with pytest.raises(KvstoreUnreachable, match="stats"):
            client.stats()
        assert client.allocate(sequence=1, tenant="a", tokens=4).code == OK


def test_no_kvstore_is_said_in_time(tmp_path: Path) -> None:
    """Without a kvstore a client gives up after its timeout; a directory open to others is refused."""
    tmp_path.chmod(0o700)
    with pytest.raises(KvstoreUnreachable, match=r"attach\.sock"):
        KVClient(tmp_path, timeout=0.1)
    with KVReader(tmp_path, timeout=0.1) as reader, pytest.raises(KvstoreUnreachable, match="stats"):
        reader.stats()
    tmp_path.chmod(0o755)
    with pytest.raises(LocalError, match="0700"):
        KVReader(tmp_path)


def test_a_restarted_kvstore_makes_the_session_stale(start_kvstore: Start) -> None:
    """After kill -9 and a restart the old client says StaleSession at once, and a new one attaches."""
    kvstore = start_kvstore()
    told = threading.Event()
    old = KVClient(kvstore.run_dir, on_lost=lambda _: told.set())
    old.allocate(sequence=1, tenant="a", tokens=9)
    kvstore.kill()
    wait_for(told.is_set, "the heartbeat thread sees the end of the side socket")
    assert isinstance(old.lost_reason, StaleSession)
    assert not old.lease_valid()
    kvstore.start()
    with pytest.raises(StaleSession):
        old.extend(sequence=1, tokens=20)
    old.close()
    with KVClient(kvstore.run_dir) as new:
        assert new.boot != old.boot
        assert new.allocate(sequence=1, tenant="a", tokens=9).code == OK


def test_a_client_may_start_before_the_kvstore(start_kvstore: Start) -> None:
    """The side socket is tried until the timeout, so start order does not matter."""
    kvstore = start_kvstore()
    kvstore.stop()
    attached = threading.Event()

    def attach() -> None:
        with KVClient(kvstore.run_dir, timeout=20):
            attached.set()

    thread = threading.Thread(target=attach)
    thread.start()
    kvstore.start()
    thread.join(20)
    assert attached.is_set()
