"""The simulated kvstore: the real dispatch, inbox, and judgement of processes, behind sockets that are lists.

``turn`` does what a turn of the server does, in its order: forgive a gap, drain, attend to processes that are gone,
send what was deferred, judge leases. The kernel's part is ``tests.support.side_socket``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from quire_kvstore.server.inbox import Inbox
from quire_kvstore.server.liveness import HOST_MEMORY, Processes
from quire_kvstore.server.task import Task
from tests.proofs.sim import Process, Sim
from tests.proofs.world import World
from tests.support.side_socket import Side, SimListener

TICK_MS, GAP_MS, GRACE_MS = 10, 20, 60
SLICE = 8
RESTART_MS = (5, 120)
# How often a failpoint is the end. A kvstore passes three of them with each request.
KILL = 1 / 4000


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
        """A process connects to the side socket; False if none listens."""
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
