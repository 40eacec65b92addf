"""The simulated kvstore: the real dispatch, inbox, and judgement of processes, behind sockets that are lists.

``turn`` does what a turn of the server does, in its order: forgive a gap, drain, attend to who died or hung up, send
what was deferred, judge leases. The kernel's part is ``Side``: one end of a side socket, with the pidfd of the process
at the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import zmq

from quire_kvstore.host.attach_socket import Accepted, Connection
from quire_kvstore.server.inbox import Inbox
from quire_kvstore.server.liveness import HOST_MEMORY, Processes
from quire_kvstore.server.task import Task
from quire_kvstore.sessions.session import Peer
from tests.proofs.sim import Process, Sim
from tests.proofs.world import World

TICK_MS, GAP_MS, GRACE_MS = 10, 20, 60
SLICE = 8
RESTART_MS = (5, 120)
# How often a failpoint is the end. A kvstore passes three of them with each request.
KILL = 1 / 4000


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
    """The listening end, and the poller: who waits to be accepted, and what is ready."""

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


class SimKvstore(Process):
    """One life after another of a kvstore.

    Attributes:
        send: (identity, frame) to the network.
    """

    def __init__(self, sim: Sim, world: World, send: Callable[[bytes, bytes], None]) -> None:
        super().__init__(sim, "kvstore")
        self.world, self.send = world, send

    def begin(self) -> None:
        self.world.now = self._last = self.sim.now
        self.world.boot()
        self.world.store.state.slice_blocks = self.sim.random.choice((1, 2, 128))
        self.socket: deque[tuple[bytes, bytes]] = deque()
        self.inbox, self.listener = Inbox(), SimListener()
        self.processes = Processes(
            self.world.service, self.listener, self.listener, GRACE_MS, True, HOST_MEMORY
        )  # fmt: skip
        self._woken = False
        self.later(TICK_MS, self._tick)

    def ended(self) -> None:
        for side in [*self.listener.sides.values(), *self.listener.waiting]:
            side.close()
        self.sim.at(self.sim.random.randint(*RESTART_MS), self.start)

    def connect(self, side: Side) -> bool:
        """A process connects to the side socket; False if nobody listens."""
        if self.alive:
            self.listener.waiting.append(side)
            self.wake()
        return self.alive

    def arrive(self, identity: bytes, frame: bytes) -> None:
        """A frame is in the socket; of frames for a kvstore that is down some outlive the wait for the next one."""
        if self.alive:
            self.socket.append((identity, frame))
            self.wake()
        elif self.sim.chance(0.5):
            self.sim.at(20, self.arrive, identity, frame)

    def wake(self) -> None:
        """Something is ready: a turn begins soon."""
        if not self._woken:
            self._woken = True
            self.later(self.sim.random.randint(0, 1), self._turn)

    def _tick(self) -> None:
        self._turn()
        self.later(TICK_MS, self._tick)

    def _turn(self) -> None:
        self._woken = False
        world, now = self.world, self.sim.now
        gap, self._last, world.now = now - self._last - TICK_MS, now, now
        if gap > GAP_MS:
            world.store.extend_leases(gap)
        while self.socket or self.inbox:
            self._receive()
            longer = [self._answer(message) for message in self.inbox.round()]
            if any(longer) and self.sim.chance(0.3):  # as when a batch is full: processes end between two slices
                self.wake()
                break
        self.processes.attend(self.listener.ready(), now)
        self.sim.failpoint("kvstore: attended to processes", KILL / 2)
        for identity, reply in world.dispatch.deferred(now):
            self.send(identity, reply)
        if not self.inbox:
            self.processes.judge(now)
        self.sim.failpoint("kvstore: judged leases", KILL / 2)

    def _receive(self) -> None:
        for _ in range(min(SLICE, len(self.socket))):
            identity, frame = self.socket.popleft()
            task = Task(identity, [frame], self.sim.now)
            if not self.inbox.put(task):
                self.sim.note("busy", identity)
                self.send(identity, self.world.dispatch.busy([frame]))

    def _answer(self, task: Task) -> bool:
        """Execute a request, or a slice; whether some are left."""
        self.sim.note("request", task.peer, task.frames[0])
        self.sim.failpoint("kvstore: received a request", KILL)
        reply = self.world.dispatch.handle(task, self.sim.now)
        assert self.world.store.counters.internal_errors == 0, "INTERNAL: an exception in the kvstore"
        self.sim.failpoint("kvstore: executed a request", KILL)
        if task.slices is not None:
            self.inbox.put_back(task)
            return True
        if reply is not None:
            self.send(task.peer, reply)
        self.sim.failpoint("kvstore: replied", KILL)
        return False
