"""Processes: the side connections of the server, and what follows when a process dies, hangs up or falls silent.

    dies (pidfd readable)            -> everything it held comes back at once
    hangs up without dying           -> fenced a moment later; comes back when it dies, detaches after all, or connects
                                        again, which a process does only when it has unmapped
    falls silent for its lease       -> fenced; killed through its pidfd after a grace; comes back when it is dead

Invariant: blocks come back only after the kernel said that the process is gone, or after the process itself did.
Where we may not kill (another user's process), cannot (one outside our pid namespace) or must not (it hung up by itself
and does something else now), they stay in quarantine; the log says so once, and ``counters.not_killed``.

There are places for a limited number of connections. When all are taken, the process that connected longest ago and
never attached gives up its place: a flood of connections that say nothing keeps no engine out.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
import zmq

from quire_kvstore.host.attach_socket import Accepted, Connection, Listener, PeerGone, most_connections
from quire_kvstore.host.device_mappers import Mappers
from quire_kvstore.ops import free, lifecycle
from quire_kvstore.sessions.session import FENCED, Session

from .service import Service

DYING_MS = 100
ACCEPTS_A_TURN = 16  # so that a flood of connections does not keep requests waiting

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DeviceAdmission:
    """What a device arena adds when a process connects.

    Attributes:
        arena_fd: descriptor that goes with each hello, -1 for none.
        mappers: roster to keep, None for an arena in host memory.
        accepted: connections made while the start waited for old mappers.
    """

    arena_fd: int = -1
    mappers: Mappers | None = None
    accepted: tuple[Accepted, ...] = ()


HOST_MEMORY = DeviceAdmission()


class Processes:
    """All connections of one server, registered at its poller."""

    def __init__(
        self,
        service: Service,
        listener: Listener,
        poller: zmq.Poller,
        grace_ms: int,
        kill: bool,
        device: DeviceAdmission,
    ) -> None:
        self._service, self._listener, self._poller = service, listener, poller
        self._grace_ms, self._kill = grace_ms, kill
        self._by_fd: dict[int, Connection] = {}
        self._most, self._full = most_connections(), False
        self._hung: tuple[Connection, ...] = ()
        self._signalled: set[bytes] = set()
        self._device = device
        poller.register(listener.fileno(), zmq.POLLIN)
        for accepted in device.accepted:
            self._admit(accepted)

    def attend(self, ready: dict[object, int], now_ms: int) -> None:
        """React to the descriptors that a poll found ready."""
        for fd in [fd for fd in ready if fd in self._by_fd]:
            connection = self._by_fd.get(fd) if isinstance(fd, int) else None
            if connection is None:
                continue  # ended a moment ago, by its other descriptor
            if fd == connection.pidfd:
                self._died(connection)
            elif connection.ended():
                self._hung_up(connection, now_ms)
        # Last: a process that hung up before it connected again is known by now.
        if self._listener.fileno() in ready:
            self._accept()

    def judge(self, now_ms: int) -> None:
        """Fence those whose lease passed; kill those whose grace passed too."""
        state = self._service.state
        for session in lifecycle.judge(state, now_ms):
            log.warning("session_fenced", reason="lease", **_fields(session))
        for session in lifecycle.overdue(state, now_ms, self._grace_ms):
            if session.id not in self._signalled:
                self._signalled.add(session.id)
                self._end(session)
        for connection in self._hung:
            self._judge_hung(connection, now_ms)

    def stop_accepting(self) -> None:
        """Close the listener."""
        self._poller.unregister(self._listener.fileno())
        self._listener.close()

    def close(self) -> None:
        """Close all connections: each client sees the end of its side socket."""
        for connection in set(self._by_fd.values()):
            connection.close()
        self._by_fd.clear()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                accepted = self._listener.accept()
            except PeerGone as exc:
                log.info("peer_gone", reason=str(exc))
                continue
            if accepted is None:
                return
            self._admit(accepted)

    def _admit(self, accepted: Accepted) -> None:
        socket, pidfd, pid, _ = accepted
        for hung in [hung for hung in self._hung if hung.peer.pid == pid > 0]:
            self._died(hung, "process_came_back")
        connection = self._listener.connection(accepted, self._service.admit(pid))
        if self._device.mappers is not None:
            # Entered before it gets the memory: after a kill at any instant the roster names at least all mappers.
            connection.mapper = self._device.mappers.add(pid)
        for fd in (socket.fileno(), pidfd):
            self._by_fd[fd] = connection
            self._poller.register(fd, zmq.POLLIN)
        if self._too_many() or not connection.send_hello(self._service.boot, self._device.arena_fd):
            self._died(connection)

    def _too_many(self) -> bool:
        """Whether there is no place for the newest connection, even if one that never attached goes."""
        full = len(self._by_fd) > 2 * self._most
        if full and not self._full:
            log.warning("side_socket_full", connections=self._most)
        self._full = full
        # With a device arena the hello brought the memory, so even a process that never attached may have mapped it.
        if not full or self._device.arena_fd >= 0:
            return full
        peer = self._service.oldest_unattached()
        silent = next((c for c in self._by_fd.values() if c.peer is peer), None)
        if silent is not None:
            self._died(silent)
        return silent is None

    def _died(self, connection: Connection, event: str = "process_died") -> None:
        self._service.forget(connection.peer)
        for session in self._service.state.sessions.of_peer(connection.peer):
            fields = _fields(session)
            log.info(event, references=free.reclaim(self._service.state, session), **fields)
            self._signalled.discard(session.id)
        for fd in (connection.socket.fileno(), connection.pidfd):
            if self._by_fd.pop(fd, None) is not None:
                self._poller.unregister(fd)
        self._hung = tuple(other for other in self._hung if other is not connection)
        if self._device.mappers is not None and connection.mapper is not None:
            self._device.mappers.remove(connection.mapper)
        connection.close()

    def _hung_up(self, connection: Connection, now_ms: int) -> None:
        """The connection ended. Its pidfd stays watched as long as the process may still touch our memory."""
        state = self._service.state
        sessions = state.sessions.of_peer(connection.peer)
        for session in [s for s in sessions if not s.sequences]:
            sessions.remove(session)  # holds nothing, so there is nothing to fence
            free.reclaim(state, session)
        if not sessions:
            self._died(connection)
            return
        fd = connection.socket.fileno()
        del self._by_fd[fd]
        self._poller.unregister(fd)
        connection.hung_up_at = now_ms
        self._hung += (connection,)

    def _judge_hung(self, connection: Connection, now_ms: int) -> None:
        """Fence the sessions of a process that hung up and lives on. A dying one hangs up before its pidfd tells so."""
        state = self._service.state
        sessions = state.sessions.of_peer(connection.peer)
        if not sessions:
            self._died(connection)  # it detached after all: nothing is left to watch for
        elif now_ms - connection.hung_up_at >= DYING_MS:
            for session in sessions:
                if session.state != FENCED:
                    free.fence(state, session, now_ms)
                    log.warning("session_fenced", reason="side_socket_closed", **_fields(session))

    def _end(self, session: Session) -> None:
        connection = next((c for c in self._by_fd.values() if c.peer is session.peer), None)
        assert connection is not None, "a fenced session's process is watched"
        counters, why = self._service.state.counters, ""
        if connection in self._hung:
            reason = "hung_up_and_alive"
        elif not self._kill or not connection.may_kill() or (why := connection.kill()):
            reason = "may_not_kill"
        else:
            counters.killed += 1
            log.warning("process_killed", **_fields(session))
            return
        session.stays = True
        counters.not_killed += 1
        log.error("quarantine_stays", reason=reason, **({"error": why} if why else {}), **_fields(session))


def _fields(session: Session) -> dict[str, object]:
    return {
        "session": session.id.hex(),
        "name": session.name,
        "client_pid": session.peer.pid if session.peer else 0,
    }
