"""The side socket: which process is behind a session, and whether it still lives.

ZeroMQ hides which process is at the other end. So a writable session first connects here (AF_UNIX, SEQPACKET) and gets,
in one message, our boot id and a one-time token for ``attach``. From the connection we take the peer's *pidfd*: a
handle to the process itself, which becomes readable when it dies and cannot name another process later, as a pid can.

``SO_PEERPIDFD`` gives it without a race. On older kernels we open it by pid and then make sure that the connection
is still open and the process is older than our accept: then the pid was not taken over in between.

A process outside our pid namespace has no pid here, and can be watched but not killed.

Nothing is expected from a peer but its end. What it sends is read and dropped, descriptors too (the kernel closes those
for which a reader has no room). Where no descriptor is left for one more peer, a spare one serves to accept it and hang
up: left in the queue it would wake us without end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from quire_kvstore.sessions.session import Peer
from quire_proto.private_dir import free_socket_name
from quire_proto.wire.codec import encode
from quire_proto.wire.envelope import VERSION

ATTACH_SOCKET = "attach.sock"
SO_PEERPIDFD = 77
MAX_CONNECTIONS = 1024
# Descriptors of a client: connection and pidfd here, and three sockets of the wire (requests, heartbeats, waits).
_PER_CLIENT, _OF_OUR_OWN = 5, 64
_UCRED = struct.Struct("iII")
_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# (connection, pidfd, pid, uid) of a process that connected
Accepted = tuple[socket.socket, int, int, int]


class PeerGone(Exception):
    """The process died before it could be identified."""


@dataclass(slots=True, eq=False)
class Connection:
    """One process at the side socket.

    Attributes:
        uid: its user.
        hung_up_at: when it closed its end (ms).
        mapper: its entry in the roster of a device arena, as (pid, start time), if there is one.
    """

    socket: socket.socket
    pidfd: int
    uid: int
    peer: Peer
    hung_up_at: int = 0
    mapper: tuple[int, int] | None = None

    def send_hello(self, boot: bytes, arena_fd: int = -1) -> bool:
        """Send boot id and token, and the arena's descriptor if there is one; False if the peer is gone already."""
        hello = encode({"version": VERSION, "boot": boot, "token": self.peer.token})
        try:
            # Without descriptors this is a plain send.
            socket.send_fds(self.socket, [hello], [arena_fd] if arena_fd >= 0 else [], socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def ended(self) -> bool:
        """Whether the peer closed the connection; drops a packet if there is one. An empty packet is no end."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        if poll.poll(0):
            return True
        with contextlib.suppress(OSError):  # nothing there, or the end, which the next look finds
            self.socket.recv(1)
        return False

    def may_kill(self) -> bool:
        """Whether the process is of our own user."""
        return self.uid == os.getuid()

    def kill(self) -> str:
        """SIGKILL to exactly this process, to none if it is dead; why that is not possible, or nothing."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it is dead, and its pidfd says so in a moment
        except OSError as exc:  # EINVAL: a process outside our pid namespace; EPERM: not ours after all
            return exc.strerror or str(exc)
        return ""

    def close(self) -> None:
        """Close connection and pidfd."""
        self.socket.close()
        os.close(self.pidfd)


class Listener:
    """The listening end. The file is made with mode 0600."""

    def __init__(self, run_dir: Path, name: str = ATTACH_SOCKET) -> None:
        self._path = run_dir / name
        free_socket_name(self._path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self._path))
        self._path.chmod(0o600)
        self._socket.listen(128)
        self._spare = _spare()

    def fileno(self) -> int:
        """Descriptor to poll."""
        return self._socket.fileno()

    def accept(self) -> Accepted | None:
        """(connection, pidfd, pid, uid) of the next process, or None if none waits. Raises PeerGone."""
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as exc:
            if exc.errno not in _NONE_LEFT:
                raise
            self._hang_up()
            raise PeerGone(f"no place for it: {exc.strerror}") from exc
        connection.setblocking(False)
        try:
            pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            return connection, pidfd_of(connection, pid), pid, uid
        except (OSError, PeerGone) as exc:
            connection.close()
            raise PeerGone(str(exc)) from exc

    def _hang_up(self) -> None:
        """Accept the next peer only to close the connection."""
        if self._spare >= 0:
            os.close(self._spare)
        with contextlib.suppress(OSError):
            self._socket.accept()[0].close()
        self._spare = _spare()

    def connection(self, accepted: Accepted, peer: Peer) -> Connection:
        """The connection of a process that was admitted as ``peer``."""
        socket, pidfd, _, uid = accepted
        return Connection(socket, pidfd, uid, peer)

    def close(self) -> None:
        """Stop listening and remove the file."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        if self._spare >= 0:
            os.close(self._spare)
        self._path.unlink(missing_ok=True)


def raise_descriptor_limit() -> None:
    """Let this process have the descriptors of ``MAX_CONNECTIONS`` clients, or as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, MAX_CONNECTIONS * _PER_CLIENT + _OF_OUR_OWN)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """How many connections leave descriptors for all of them on the wire."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MAX_CONNECTIONS, (soft - _OF_OUR_OWN) // _PER_CLIENT))


def _spare() -> int:
    """A descriptor to give up when it is needed; -1 if there is none left even for that."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def pidfd_of(connection: socket.socket, pid: int) -> int:
    """A pidfd of the connected process; the caller closes it. Raises PeerGone or OSError."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        return pidfd_by_pid(connection, pid)


def pidfd_by_pid(connection: socket.socket, pid: int) -> int:
    """The fallback for kernels before 6.5."""
    accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
    if pid <= 0:
        raise PeerGone(
            "its process has no pid here: it is in another pid namespace, which takes a kernel of 6.5 or later"
        )
    pidfd = os.pidfd_open(pid)
    try:
        if start_ticks(pid) / os.sysconf("SC_CLK_TCK") > accepted:
            raise PeerGone(f"pid {pid} was taken over by a younger process")
        try:
            if not connection.recv(1, socket.MSG_PEEK):
                raise PeerGone(f"process {pid} hung up")
        except BlockingIOError:
            pass  # still open: the process that connected was alive when we opened its pidfd
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd


def start_ticks(pid: int) -> int:
    """When a process started (clock ticks since the machine did): with the pid, its name. Raises OSError if gone."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
