"""DEALER sockets to the kvstore: every option that libzmq leaves open, set in one place.

LINGER 0: closing never waits for a dead peer. MAXMSGSIZE: a peer cannot make us allocate without bound. HWM: an
unreachable kvstore makes sends fail (and the resend timer act) instead of filling memory. No ZMTP heartbeats: on one
host the end of a process ends its connections, and libzmq aborts its own process where the timer of heartbeats meets
a connection that has ended with more to read than was taken in (``out_event`` in stream_engine_base.cpp).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, TypeVar

import zmq

from quire_proto.private_dir import insist_on_private
from quire_proto.wire.envelope import MAX_FRAME_BYTES
from quire_proto.wire.errors import KvstoreUnreachable

KVSTORE_SOCKET = "kvstore.sock"
S = TypeVar("S", bound=zmq.Socket[Any])

_OPTIONS = {
    zmq.LINGER: 0,
    zmq.MAXMSGSIZE: MAX_FRAME_BYTES,
    zmq.SNDHWM: 64,
    zmq.RCVHWM: 64,
    zmq.RECONNECT_IVL: 20,
    zmq.RECONNECT_IVL_MAX: 1000,
}


def address(run_dir: str | os.PathLike[str]) -> str:
    """ZeroMQ address of the kvstore of a run directory; raises NotPrivate for a directory others may enter.

    One that is not there yet passes: there is nothing in it to speak to.
    """
    path = os.path.abspath(run_dir)
    with suppress(FileNotFoundError):
        insist_on_private(path)
    return f"ipc://{os.path.join(path, KVSTORE_SOCKET)}"


def connect(dealer: S, to: str) -> S:
    """Set the options of a DEALER socket and connect it."""
    for option, value in _OPTIONS.items():
        dealer.setsockopt(option, value)
    dealer.connect(to)
    return dealer


class Wire:
    """A blocking DEALER socket that can be replaced: after a lost reply a fresh connection is a known state."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], to: str) -> None:
        self._context, self._to = context, to
        self._poller = zmq.Poller()
        self._dealer = self._open()

    def _open(self) -> zmq.Socket[bytes]:
        dealer = connect(self._context.socket(zmq.DEALER), self._to)
        self._poller.register(dealer, zmq.POLLIN)
        return dealer

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._dealer.closed

    def watch(self, fd: int) -> None:
        """Let :meth:`poll` also return when ``fd`` becomes readable or is hung up."""
        self._poller.register(fd, zmq.POLLIN)

    def send(self, frame: bytes) -> bool:
        """Hand a frame over without waiting; False if the queue is full (resend later)."""
        try:
            self._dealer.send(frame, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def poll(self, seconds: float) -> None:
        """Wait until a frame or a watched descriptor is ready, at most ``seconds``."""
        try:
            self._poller.poll(max(0, int(seconds * 1000) + 1))
        except zmq.ZMQError as exc:
            raise KvstoreUnreachable(f"the socket failed: {exc}") from exc

    def receive(self) -> list[bytes]:
        """All frames that have arrived."""
        frames = []
        while True:
            try:
                frames.append(self._dealer.recv(zmq.DONTWAIT))
            except zmq.Again:
                return frames

    def reconnect(self) -> None:
        """Replace the socket; whatever was queued on the old one is dropped."""
        self.close()
        self._dealer = self._open()

    def close(self) -> None:
        """Close the socket; never waits."""
        if not self._dealer.closed:
            self._poller.unregister(self._dealer)
            self._dealer.close(0)
