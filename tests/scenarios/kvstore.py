"""The kvstore of a scenario: the real dispatch and the real judgement of processes, under a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.host.saved import Declarations
from quire_kvstore.host.state_dir import StateDir
from quire_kvstore.ops import lifecycle
from quire_kvstore.server import quota
from quire_kvstore.server.dispatch import Dispatch
from quire_kvstore.server.liveness import HOST_MEMORY, Processes
from quire_kvstore.server.service import Service
from quire_kvstore.server.task import Task
from quire_kvstore.state import State
from quire_kvstore.views import invariants
from quire_proto.wire.handles import ShmHandle
from quire_proto.wire.layout import Layout
from tests.support.side_socket import Side, SimListener

TICK_MS = 10
ROOT_KEY = bytes(32)
LAYOUT = Layout("tiny", "w0", "{}", "", "float32", 4, 1, 1, 8)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the ``pool`` line says. Blocks, tokens a block, ms."""

    blocks: int
    block_size: int
    policy: str
    pin_budget: int
    quarantine_reserve: int
    lease_ms: int
    grace_ms: int


@dataclass(eq=False)
class ClientProcess:
    """A process that may attach, as the kernel knows it. ``killed``: by the kvstore."""

    pid: int
    alive: bool = True
    life: int = 0
    killed: bool = False

    def die(self, _: str) -> None:
        """SIGKILL by the kvstore."""
        self.alive, self.killed = False, True


class Kvstore:
    """One boot after another in one state directory. ``now``: ms."""

    def __init__(self, settings: Settings, documents: Path) -> None:
        self.settings, self.now = settings, 0
        self._documents = StateDir(documents)
        self._ids = iter(range(1, 1 << 30))
        self.boot()

    def boot(self) -> None:
        """An empty pool and no session; what was declared holds again."""
        set_to = self.settings
        self.state = State(set_to.blocks, set_to.block_size, make_policy(set_to.policy, set_to.blocks))
        self.state.quotas.pin_budget = self.state.publications.budget = set_to.pin_budget
        self.state.quotas.quarantine_reserve = set_to.quarantine_reserve
        declarations = Declarations(self._documents)
        self.state.groups = declarations.groups(())
        declarations.restore_publications(self.state.publications)
        quota.restore(self._documents, self.state)
        layout = replace(LAYOUT, block_size=set_to.block_size)
        self.service = Service(
            self.state,
            layout,
            ShmHandle("/quire-scenario", layout.arena_bytes(set_to.blocks)),
            ROOT_KEY,
            lease_ms=set_to.lease_ms,
            started_ms=self.now,
            state_dir=self._documents,
            declarations=declarations,
            ids=lambda: next(self._ids).to_bytes(16, "big"),
        )
        self.dispatch, self._listener = Dispatch(self.service), SimListener()
        self._processes = Processes(
            self.service, self._listener, self._listener, set_to.grace_ms, True, HOST_MEMORY
        )  # fmt: skip

    def connect(self, process: ClientProcess, hello: Callable[[bytes], None]) -> Side:
        """A process connects to the side socket; its hello comes at once."""
        side = Side(process, hello)
        self._listener.waiting.append(side)
        self.attend()
        return side

    def attend(self) -> None:
        """See which processes connected, died or hung up."""
        self._processes.attend(self._listener.ready(), self.now)

    def handle(self, peer: bytes, frame: bytes) -> bytes | None:
        """The reply to a request, or None: it comes later."""
        task = Task(peer, [frame], self.now)
        reply = self.dispatch.handle(task, self.now)
        while task.slices is not None:
            reply = self.dispatch.handle(task, self.now)
        assert self.state.counters.internal_errors == 0, "INTERNAL: an exception in the kvstore"
        return reply

    def turn(self) -> list[tuple[bytes, bytes]]:
        """What a turn of the server does beside requests; the replies that came late."""
        self.attend()
        late = self.dispatch.deferred(self.now)
        self._processes.judge(self.now)
        return late

    def stand_still(self, gap_ms: int) -> None:
        """The server's loop stops for a while, and finds so when it goes on."""
        self.now += gap_ms
        lifecycle.forgive(self.state, gap_ms)

    def tables(self, session_id: bytes) -> dict[int, list[int]] | None:
        """The table of each of a session's sequences; None if the session is gone."""
        session = self.state.sessions.get(session_id)
        if session is None:
            return None
        return {number: sequence.table.tolist() for number, sequence in session.sequences.items()}

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        invariants.check(self.state)
