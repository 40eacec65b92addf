"""A kvstore that was stopped for longer than a lease judges no session for it.

The whole machine stands still here: the kvstore and its client. With only the kvstore stopped, a heartbeat would lie in
its socket and renew the lease by itself.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.support.children import holding_client
from tests.support.kvstore import Kvstore
from tests.support.raw_client import Client
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
LEASE_S, STOPPED_S = 2.0, 3.0


def test_leases_survive_a_stopped_kvstore(tmp_path: Path) -> None:
    """After a stop of several leases no session is fenced; its holder goes on beating in the same session."""
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o700)
    kvstore = Kvstore(run_dir, f"--lease-ms={int(LEASE_S * 1000)}").start()
    reader = Client(run_dir)
    try:
        with holding_client(run_dir) as holder:
            for _ in range(2):
                holder.send_signal(signal.SIGSTOP)
                kvstore.process.send_signal(signal.SIGSTOP)
                time.sleep(STOPPED_S)  # the stop itself, not a wait for anything
                kvstore.process.send_signal(signal.SIGCONT)
                assert reader.stats().counters["fenced"] == 0
                holder.send_signal(signal.SIGCONT)
                beats = reader.stats().ops.get("heartbeat", 0)
                wait_for(lambda beats=beats: reader.stats().ops.get("heartbeat", 0) > beats + 3, "it beats again")

            stats = reader.stats()
            assert (stats.counters["fenced"], stats.sessions[0].state, stats.blocks["held"]) == (0, "ready", 10)
            assert [event["gap_ms"] > 1500 for event in kvstore.events("gap_in_loop")] == [True] * 2
    finally:
        reader.close()
        assert kvstore.end(signal.SIGTERM) == 0
