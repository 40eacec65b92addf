"""A client made of a raw DEALER and a raw side socket: no client library in between."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import msgpack
import zmq

from quire_proto import messages as m
from quire_proto.wire.codec import from_map, to_map
from quire_proto.wire.envelope import Reply, Request, decode_reply
from tests.support.service import LAYOUT
from tests.support.waits import DEADLINE_S


class Client:
    """One session, or only a reader; numbers its ordered requests itself."""

    def __init__(self, run_dir: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.dealer = self._context.socket(zmq.DEALER)
        self.dealer.setsockopt(zmq.LINGER, 0)
        self.dealer.connect(f"ipc://{run_dir / 'kvstore.sock'}")
        self.side = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._run_dir = run_dir
        self.boot = self.session = b""
        self.number = 0

    def attach(self, ready: bool = True) -> m.Attached:
        """Connect the side socket and open a session."""
        self.side.settimeout(DEADLINE_S)
        self.side.connect(str(self._run_dir / "attach.sock"))
        hello = msgpack.unpackb(self.side.recv(4096))
        self.boot = hello["boot"]
        body = m.Attach(nonce=os.urandom(16), token=hello["token"], name=f"raw-{os.getpid()}", layout=LAYOUT)
        attached = from_map(m.Attached, self.ask("attach", body).body)
        self.session = attached.session
        if ready:
            assert self.ask("ready", m.Empty(), ordered=True).code == ""
        return attached

    def ask(self, op: str, body: Any, ordered: bool = False) -> Reply:
        """One request and its reply."""
        self.number += ordered
        number = self.number if ordered else 1 << 62
        self.dealer.send(Request(self.boot, self.session, number, op, 0, to_map(body)).encode())
        return self.receive()

    def receive(self) -> Reply:
        """The next reply; fails if none comes."""
        assert self.dealer.poll(int(DEADLINE_S * 1000)), "no reply"
        return decode_reply(self.dealer.recv())

    def stats(self) -> m.Stats:
        """The kvstore's counters."""
        return from_map(m.Stats, self.ask("stats", m.Empty()).body)

    def close(self) -> None:
        """Close both sockets."""
        self.side.close()
        self.dealer.close(0)
        self._context.term()
