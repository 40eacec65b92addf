"""Side sockets without a kernel: connections, pidfds and a poller that are only objects.

``Processes`` (``server/liveness``) is given a ``SimListener`` as its listener and as its poller, and judges
the processes of a test: which connected, hung up, died.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import zmq

from quire_kvstore.host.attach_socket import Accepted, Connection
from quire_kvstore.sessions.session import Peer


class Owner(Protocol):
    """A client process, as the kernel knows it."""

    alive: bool
    life: int
    pid: int

    def die(self, where: str) -> None:
        """SIGKILL."""


class Side:
    """A side socket's connection: both ends, and the pidfd of the client's process.

    Attributes:
        fd, pidfd: numbers that no real descriptor has.
        hung_up: the client closed its end; ``closed``: the kvstore did, or is gone.
    """

    numbers = 1 << 20

    def __init__(self, owner: Owner, hello: Callable[[bytes], None]) -> None:
        self.owner, self.life, self._hello = owner, owner.life, hello
        self.fd = Side.numbers = Side.numbers + 2
        self.pidfd = self.fd + 1
        self.hung_up = self.closed = False

    @property
    def dead(self) -> bool:
        """Whether the process that connected is gone."""
        return not self.owner.alive or self.owner.life != self.life

    def fileno(self) -> int:
        """Descriptor."""
        return self.fd

    def sendmsg(self, buffers: list[bytes], *_: Any) -> int:
        """The hello."""
        if self.dead or self.hung_up:
            raise BrokenPipeError
        self._hello(buffers[0])
        return len(buffers[0])

    def close(self) -> None:
        """The kvstore closes its end."""
        self.closed = True


class SimConnection(Connection):
    """A connection without descriptors of the kernel."""

    side: Side

    def ended(self) -> bool:
        """The client closed its end, or is dead."""
        return self.side.dead or self.side.hung_up

    def kill(self) -> str:
        """SIGKILL to exactly the process that connected."""
        if not self.side.dead:
            self.side.owner.die("killed by the kvstore")
        return ""

    def may_kill(self) -> bool:
        """Every process is ours."""
        return True

    def close(self) -> None:
        """Our end closes."""
        self.side.close()


class SimListener:
    """The listening end, and the poller: which wait to be accepted, and what is ready."""

    def __init__(self) -> None:
        self.waiting: deque[Side] = deque()
        self.sides: dict[int, Side] = {}
        self.watched: dict[int, None] = {}

    def fileno(self) -> int:
        """Descriptor."""
        return -2

    def accept(self) -> Accepted | None:
        """The next process."""
        if not self.waiting:
            return None
        side = self.waiting.popleft()
        self.sides[side.fd] = self.sides[side.pidfd] = side
        return side, side.pidfd, side.owner.pid, 0

    def connection(self, accepted: Accepted, peer: Peer) -> Connection:
        """A connection of ours."""
        connection = SimConnection(accepted[0], accepted[1], accepted[3], peer)
        connection.side = accepted[0]
        return connection

    def register(self, fd: int, _: int) -> None:
        """Watch a descriptor."""
        self.watched[fd] = None

    def unregister(self, fd: int) -> None:
        """Watch it no more."""
        del self.watched[fd]

    def ready(self) -> dict[object, int]:
        """What a poll would say."""
        found: dict[object, int] = {-2: zmq.POLLIN} if self.waiting else {}
        for fd in self.watched:
            side = self.sides.get(fd)
            if side is not None and (side.dead or (side.hung_up and fd == side.fd)):
                found[fd] = zmq.POLLIN
        return found
