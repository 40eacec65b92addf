"""Connections that ask for more than the kvstore takes in, and end: it goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from quire_kv import KVReader
from tests.support.children import python_child
from tests.support.kvstore import Kvstore

pytestmark = pytest.mark.process
WATCHED_S = 6.0  # longer than libzmq's timers of connections were, which is two seconds
FLOOD = """
import sys, time, zmq
from quire_proto.messages import Lookup
from quire_proto.wire.codec import to_map
from quire_proto.wire.envelope import Request
context = zmq.Context()
dealers = [context.socket(zmq.DEALER) for _ in range({sockets})]
for dealer in dealers:
    dealer.setsockopt(zmq.SNDHWM, 0)
    dealer.connect("ipc://{path}")
for number in range({requests}):
    asked = Request(b"", b"", (1 << 62) + number, "lookup", 0, to_map(Lookup("p"))).encode()
    for dealer in dealers:
        dealer.send(asked)
print("queued", flush=True)
time.sleep(600)
"""


def test_connections_that_end_with_requests_queued_harm_nobody(run_dir: Path) -> None:
    """While it takes in what they had sent, libzmq must not act on those that are gone."""
    kvstore = Kvstore(run_dir).start()
    try:
        with KVReader(run_dir, timeout=60) as reader:
            boot = reader.stats().boot
            flood = FLOOD.format(path=run_dir / "kvstore.sock", sockets=60, requests=2500)
            with python_child(flood, says="queued") as process:
                process.kill()
            until = time.monotonic() + WATCHED_S
            while time.monotonic() < until:
                assert reader.stats().boot == boot
                time.sleep(0.05)
        assert kvstore.process.poll() is None, kvstore.log.read_text()[-1000:]
    finally:
        kvstore.kill()
