"""World: a real store behind the real dispatch, with a stamped arena, a virtual clock and seeded ids."""

from __future__ import annotations

from typing import Any

from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.host.saved import Declarations
from quire_kvstore.host.state_dir import StateDir
from quire_kvstore.server import quota
from quire_kvstore.server.dispatch import Dispatch
from quire_kvstore.server.service import Service
from quire_kvstore.server.task import Task
from quire_kvstore.sessions.session import FENCED, Peer
from quire_proto.wire.envelope import Reply, decode_reply
from quire_proto.wire.handles import ShmHandle
from quire_proto.wire.layout import Layout
from tests.proofs.domains import Domains
from tests.support.stamped_arena import StampedArena
from tests.support.store import Store

SIZE = 2
LEASE_MS = 100
PUBLISHED = [0, 1, 1, 0, 1]
LAYOUT = Layout("tiny", "w0", "{}", "", "float32", SIZE, 1, 1, 8)


class World:
    """One boot after another of a kvstore with ``blocks`` blocks of two tokens, as files of a state
    directory ``documents`` describe it.

    ``promised``: blocks that publications may pin, and the quarantine's reserve.

    Attributes:
        now: virtual time, ms.
        replies: how many replies were not successes, by code.
    """

    def __init__(
        self,
        blocks: int = 20,
        policy: str = "lru",
        documents: StateDir | None = None,
        promised: tuple[int, int] | None = None,
        published: bool = True,
    ) -> None:
        self.blocks, self._policy, self._published = blocks, policy, published
        self._documents, self._promised = documents, promised
        self.domains = Domains(PUBLISHED)
        self.now = 0
        self._ids = iter(range(1, 1 << 40))
        self.boot()

    def boot(self) -> None:
        """A kvstore starts: an empty pool, no sessions, another boot id."""
        self.store = Store(self.blocks, SIZE, make_policy(self._policy, self.blocks))
        if self._published:
            self.store.state.publications.add("p", "public", PUBLISHED)
        declarations = self._declared()
        self.arena = StampedArena.in_memory(self.blocks, SIZE)
        handle = ShmHandle("/quire-proof", LAYOUT.arena_bytes(self.blocks))
        self.service = Service(
            self.store.state,
            LAYOUT,
            handle,
            bytes(32),
            lease_ms=LEASE_MS,
            started_ms=self.now,
            state_dir=self._documents,
            declarations=declarations,
            ids=self.fresh_id,
        )
        self.dispatch = Dispatch(self.service)
        self.peers: dict[bytes, Peer] = {}

    def _declared(self) -> Declarations | None:
        """What was declared before holds again: groups, publications, quotas."""
        state = self.store.state
        if self._promised is not None:
            state.quotas.pin_budget, state.quotas.quarantine_reserve = self._promised
            state.publications.budget = state.quotas.pin_budget
        if self._documents is None:
            return None
        declarations = Declarations(self._documents)
        state.groups = declarations.groups(())
        declarations.restore_publications(state.publications)
        quota.restore(self._documents, state)
        return declarations

    def fresh_id(self) -> bytes:
        """A name that was never used before."""
        return next(self._ids).to_bytes(16, "big")

    def admit(self) -> Peer:
        """A process connects to the side socket."""
        peer = self.service.admit(1)
        self.peers[peer.token] = peer
        return peer

    def answer(self, frame: bytes) -> bytes:
        """One request is executed; its reply in bytes."""
        reply = self.dispatch.handle(Task(b"peer", [frame], self.now), self.now)
        assert self.store.counters.internal_errors == 0, "INTERNAL: an exception in the kvstore"
        return reply

    def ask(self, frame: bytes) -> Reply:
        """The same, decoded."""
        return decode_reply(self.answer(frame))

    def session(self, identity: bytes) -> Any:
        """The store's session of an id, or None."""
        return self.store.state.sessions.get(identity)

    def judge(self) -> None:
        """What the server does each turn: expire offers, fence, and let go of what holds nothing."""
        self.store.tick(self.now)
        self.store.judge_leases(self.now)

    def died(self, identity: bytes) -> int:
        """The kernel says that the process of a session is gone; returns the references given back."""
        session = self.session(identity)
        return 0 if session is None else self.store.reclaim(session)

    def fenced(self, identity: bytes) -> bool:
        """Whether a session is fenced."""
        session = self.session(identity)
        return session is not None and session.state == FENCED
