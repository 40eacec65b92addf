"""Heartbeats and leases: kept by a thread of their own, and let go here before the kvstore does."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from quire_proto.client.client import KVClient
from quire_proto.wire.errors import KvstoreUnreachable, StaleSession
from tests.proto.proxy import Proxy
from tests.support.kvstore import Kvstore
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
ProxyTo = Callable[[Kvstore], Proxy]
Start = Callable[..., Kvstore]


def last_valid(client: KVClient) -> float:
    """Waits until the lease is over; returns the last time (s since the epoch) at which it was valid."""
    last = time.time()
    while True:
        now = time.time()
        if not client.lease_valid():
            return last
        last = now
        time.sleep(0.001)


def test_heartbeats_go_on_while_the_main_thread_is_blocked(start_kvstore: Start) -> None:
    """A step that takes three leases does not cost the session, and progress is reported."""
    kvstore = start_kvstore(lease_ms=800)
    with KVClient(kvstore.run_dir) as client:
        client.allocate(sequence=1, tenant="a", tokens=9)
        client.progress = 41
        time.sleep(2.4)  # the blocked main thread is what is tested
        (session,) = client.stats().sessions
        assert (session.state, session.progress) == ("ready", 41)
        assert client.lease_valid()


def test_heartbeats_begin_at_attach(start_kvstore: Start, proxy_to: ProxyTo) -> None:
    """The lease is kept before the session is ready, while an engine still loads or maps."""
    proxy = proxy_to(start_kvstore(lease_ms=800))
    proxy.lose_replies += ["ready"] * 3
    with KVClient(proxy.run_dir, resend=0.3) as client:
        assert client.lease_valid()

    ops = [op for op, _ in proxy.seen]
    last_ready = len(ops) - 1 - ops[::-1].index("ready")
    assert ops[:last_ready].count("heartbeat") > 2


def test_the_lease_is_let_go_here_before_the_kvstore_fences(start_kvstore: Start, proxy_to: ProxyTo) -> None:
    """Counted from the send time of the last acknowledged heartbeat, the lease ends here first."""
    kvstore = start_kvstore(lease_ms=800)
    proxy = proxy_to(kvstore)
    with KVClient(proxy.run_dir) as client:
        client.allocate(sequence=1, tenant="a", tokens=9)
        proxy.lose_requests.append("heartbeat*")
        valid = last_valid(client)
        assert client.lost.wait(5)
        assert isinstance(client.lost_reason, KvstoreUnreachable)
        with pytest.raises(KvstoreUnreachable, match="lease"):
            client.extend(sequence=1, tokens=20)
        wait_for(lambda: kvstore.stats().blocks["quarantined"] == 3, "the kvstore fences the session")
        assert valid < kvstore.logged_at("session_fenced")[0]
    stats = kvstore.stats()
    assert (stats.sessions, stats.blocks["quarantined"], stats.counters["fenced"]) == ((), 0, 1)


def test_lost_acknowledgements_count_as_none(start_kvstore: Start, proxy_to: ProxyTo) -> None:
    """The kvstore hears every heartbeat, we hear no answer: the lease is over on this side all the same."""
    kvstore = start_kvstore(lease_ms=1000)
    proxy = proxy_to(kvstore)
    with KVClient(proxy.run_dir) as client:
        client.allocate(sequence=1, tenant="a", tokens=9)
        proxy.lose_replies.append("heartbeat*")
        valid = last_valid(client)
        wait_for(lambda: kvstore.logged_at("session_fenced") != [], "the kvstore fences the session, much later")
        assert kvstore.logged_at("session_fenced")[0] - valid > 0.2


def test_one_lost_heartbeat_is_no_harm(start_kvstore: Start, proxy_to: ProxyTo) -> None:
    """Several heartbeats fit into a lease; the next one renews it."""
    proxy = proxy_to(start_kvstore(lease_ms=800))
    with KVClient(proxy.run_dir) as client:
        proxy.lose_replies += ["heartbeat"] * 2
        beats = len(proxy.seen)
        wait_for(lambda: len(proxy.seen) > beats + 6, "six more heartbeats")
        assert client.lease_valid()
        assert proxy.lose_replies == []


def test_a_session_the_kvstore_no_longer_knows_is_stale(start_kvstore: Start, proxy_to: ProxyTo) -> None:
    """Whichever message learns it, the whole client is lost with StaleSession."""
    kvstore = start_kvstore(lease_ms=800)
    proxy = proxy_to(kvstore)
    with KVClient(proxy.run_dir) as client, KVClient(kvstore.run_dir) as other:
        assert other.session_id != client.session_id
        assert other.boot == client.boot
        client.allocate(sequence=1, tenant="a", tokens=9)
        proxy.lose_requests.append("heartbeat*")
        wait_for(lambda: kvstore.stats().counters["fenced"] == 1, "the kvstore fences the session")
        with pytest.raises((StaleSession, KvstoreUnreachable)):
            client.extend(sequence=1, tokens=20)
        assert client.lost.is_set()
        assert other.lease_valid()
