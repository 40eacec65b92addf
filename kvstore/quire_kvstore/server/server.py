"""Server: the loop around one service. One plain thread owns the store and every socket.

Each turn waits for any descriptor, drains the ROUTER in rounds (``inbox``), looks at processes that died or hung up,
and then judges leases: in that order, so that a heartbeat that already lies in the socket counts. A blocking poll and
a plain thread are measurably the fastest way to serve small requests from Python; nothing here ever waits on a peer.
Sends are DONTWAIT with ROUTER_MANDATORY: a stopped or vanished peer is marked slow, and its reply stays in the window.

A turn has one time, read when the poll returned. If we are stopped later in the turn, leases are still judged by that
time, and the next turn finds the gap and forgives it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
import zmq

from quire_kvstore.events.publisher import Publisher
from quire_kvstore.host.attach_socket import Listener
from quire_kvstore.ops import lifecycle
from quire_kvstore.views import invariants
from quire_proto.private_dir import free_socket_name
from quire_proto.spans import Tracer

from .dispatch import Dispatch
from .inbox import Inbox
from .liveness import HOST_MEMORY, DeviceAdmission, Processes
from .service import Service
from .task import Task

KVSTORE_SOCKET = "kvstore.sock"
MAX_SUN_PATH = 107
REQUESTS_A_TURN = 256
MESSAGES_A_TURN = 8
TICK_MS = 50
DISK_POLL_MS = 1
GAP_MS = 200
LINGER_AT_END_MS = 200
# Above the protocol's own limit, so that a frame a little too large is answered; far larger ones cost the connection.
MAX_ZMQ_BYTES = 64 * 1024 * 1024

log = structlog.get_logger()


class ServerError(Exception):
    """The server cannot start; the message says why."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Times in ms. ``debug`` checks the store's invariants whenever the loop is idle."""

    fence_grace_ms: int = 2000
    kill: bool = True
    debug: bool = False


class Server:
    """Serves a service in a run directory until ``stop``."""

    def __init__(
        self,
        service: Service,
        run_dir: Path,
        options: ServerOptions,
        listener: Listener | None = None,
        device: DeviceAdmission = HOST_MEMORY,
        publisher: Publisher | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """Bind both sockets, the side socket only if ``listener`` is not it already; raises ServerError.

        ``publisher`` learns what happens to the store's names, and stays the caller's. ``tracer``: see ``OpSpans``.
        """
        self._service, self._options, self._publisher = service, options, publisher
        self._dispatch = Dispatch(service, tracer)
        self._inbox = Inbox()
        self._later: list[Task] = []  # requests that wait for the disk
        self._path = run_dir / KVSTORE_SOCKET
        if len(os.fsencode(self._path)) > MAX_SUN_PATH:
            raise ServerError(f"{self._path}: longer than the {MAX_SUN_PATH} bytes a socket's path may have")
        free_socket_name(self._path)  # libzmq would remove whatever is there
        listener = listener or Listener(run_dir)  # before the ROUTER: a process that sees that one can attach already
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._bind()
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._wake, zmq.POLLIN)
        self._processes = Processes(service, listener, self._poller, options.fence_grace_ms, options.kill, device)

    def stop(self) -> None:
        """End the loop soon; may be called from a signal handler or another thread."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def serve(self) -> None:
        """Run until :meth:`stop`, then answer what is queued."""
        last = _now_ms()
        while not self._stopping:
            ready = dict(self._poller.poll(0 if self._inbox else DISK_POLL_MS if self._later else TICK_MS))
            now = _now_ms()
            self._forgive(now - last - TICK_MS)
            last = now
            self._resume()
            drained = self._drain()
            self._processes.attend(ready, now)
            self._send_deferred()
            self._collect()
            # Leases are judged only when the socket is empty: an unread heartbeat is not a missing one.
            if drained:
                self._processes.judge(now)
            if self._options.debug and not ready:
                invariants.check(self._service.state)
        self._processes.stop_accepting()
        until = _now_ms() + LINGER_AT_END_MS
        while (not self._drain() or self._later) and _now_ms() < until:
            self._poller.poll(DISK_POLL_MS if self._later else 0)  # what waits for the disk is on it in a moment
            self._resume()

    def close(self) -> None:
        """Close everything and remove both socket files."""
        self._processes.close()
        self._router.close(linger=LINGER_AT_END_MS)
        self._context.term()
        os.close(self._wake)
        self._path.unlink(missing_ok=True)

    def _bind(self) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        # No ZMTP heartbeats: they are for networks, and libzmq dies of them (``quire_proto.client.socket``).
        for option, value in {
            zmq.LINGER: 0,
            zmq.MAXMSGSIZE: MAX_ZMQ_BYTES,
            zmq.SNDHWM: 1024,
            zmq.RCVHWM: 1024,
            zmq.ROUTER_MANDATORY: 1,
        }.items():
            router.setsockopt(option, value)
        mask = os.umask(0o177)
        try:
            router.bind(f"ipc://{self._path}")
        except zmq.ZMQError as exc:
            router.close(0)
            raise ServerError(f"{self._path}: {exc}") from exc
        finally:
            os.umask(mask)
        return router

    def _forgive(self, gap_ms: int) -> None:
        """Extend all leases by a gap in our own loop."""
        if gap_ms > GAP_MS:
            log.warning("gap_in_loop", gap_ms=gap_ms)
            lifecycle.forgive(self._service.state, gap_ms)

    def _drain(self) -> bool:
        """Receive and execute about ``BATCH`` requests, one of each connection in turn; whether that was all."""
        executed = 0
        while executed < REQUESTS_A_TURN:
            self._receive()
            tasks = self._inbox.round()
            if not tasks:
                return True
            for task in tasks:
                self._execute(task)
            executed += len(tasks)
        return False

    def _receive(self) -> None:
        """Take a few messages from the socket into the inbox; refuse what does not fit there."""
        received = _now_ms()
        for _ in range(MESSAGES_A_TURN):
            try:
                identity, *frames = self._router.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            task = Task(identity, frames, received)
            if not self._inbox.put(task):
                self._send(task, self._dispatch.busy(frames))

    def _execute(self, task: Task) -> None:
        """Execute a task, if in slices then one."""
        reply = self._dispatch.handle(task, _now_ms())
        if reply is not None:
            self._send(task, reply)
        elif task.blocked:
            self._later.append(task)
        elif task.slices is not None:
            self._inbox.put_back(task)

    def _resume(self) -> None:
        """See once a turn whether what waits can go on; the oldest first."""
        later, self._later = self._later, []
        for task in reversed(later):
            self._inbox.put_back(task)

    def _send_deferred(self) -> None:
        now = _now_ms()
        for identity, reply in self._dispatch.deferred(now):
            self._send(Task(identity, [], now), reply)

    def _collect(self) -> None:
        journal = self._service.state.index.journal
        if self._publisher is not None and journal is not None:
            self._publisher.collect(journal)

    def _send(self, task: Task, reply: bytes) -> None:
        try:
            self._router.send_multipart((task.peer, reply), zmq.DONTWAIT)
        except zmq.ZMQError:
            # EAGAIN: the peer does not read; EHOSTUNREACH: it is gone. It may resend and get the same reply.
            self._dispatch.unsent(task.frames)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
