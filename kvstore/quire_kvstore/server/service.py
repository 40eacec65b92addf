"""Service: one boot of a kvstore. The store, and what the store must not know: keys, ids, layout, peers, time.

Everything a handler (``handlers``) needs beside its task. Randomness comes in through ``new_id``, time with the task:
tests are repeatable.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from quire_kvstore.errors import Refusal
from quire_kvstore.host.saved import Declarations
from quire_kvstore.host.state_dir import StateDir
from quire_kvstore.ops import lifecycle
from quire_kvstore.sessions.reply_window import WINDOW
from quire_kvstore.sessions.session import Peer, Session
from quire_kvstore.state import State
from quire_kvstore.views.cells import Cells
from quire_proto.messages import Events, Limits
from quire_proto.messages.query import WeightsInfo
from quire_proto.wire.envelope import ID_BYTES, MAX_FRAME_BYTES
from quire_proto.wire.handles import Handle, ShmHandle
from quire_proto.wire.histogram import Histogram
from quire_proto.wire.layout import Layout

MAX_ITEMS = 8192
# Of the seconds that an op takes: around the tenth of a millisecond of most, and the millisecond that none may exceed.
OP_BOUNDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)


class Disk(Protocol):
    """What saves: at once, or a thread of its own (a ``ThreadPoolExecutor``)."""

    def submit(self, save: Callable[[], None], /) -> Future[None]:
        """Begin to save."""


class Inline:
    """Saves at once."""

    def submit(self, save: Callable[[], None], /) -> Future[None]:
        """Save; an exception is the result."""
        done: Future[None] = Future()
        try:
            save()
        except Exception as exc:
            done.set_exception(exc)
        else:
            done.set_result(None)
        return done


def new_id() -> bytes:
    """A random id of 16 bytes: boots, sessions, tokens."""
    return secrets.token_bytes(ID_BYTES)


class Service:
    """State of one boot.

    Attributes:
        boot: the boot id.
        state_dir: where quotas are kept; None: nowhere.
        declarations: where administration keeps what it declares; None: nowhere.
        disk: what saves either; ``declaring``: whether a declaration is on its way there (``declarations``).
        gpu_uuid: GPU of the arena, "" for host memory.
        limits: what one request may ask for.
        op_times: seconds that executed requests took, by op.
        events: the event stream, if there is one.
        weights: arenas of weights, as they are now.
        cells: every block as readers are shown it.
    """

    domain_generation = 1

    def __init__(
        self,
        state: State,
        layout: Layout,
        arena: Handle,
        root_key: bytes,
        *,
        lease_ms: int,
        started_ms: int,
        version: str = "",
        state_dir: StateDir | None = None,
        declarations: Declarations | None = None,
        disk: Disk | None = None,
        boot: bytes | None = None,
        ids: Callable[[], bytes] = new_id,
    ) -> None:
        self.state, self.layout, self.arena, self.root_key = state, layout, arena, root_key
        self.gpu_uuid = "" if isinstance(arena, ShmHandle) else arena.gpu_uuid
        self.lease_ms, self.version, self.state_dir = lease_ms, version, state_dir
        self.declarations = declarations
        self.disk: Disk = Inline() if disk is None else disk
        self.declaring = False
        self.boot = ids() if boot is None else boot
        self.num_blocks = state.pool.size
        self.cells = Cells(state, self.boot)
        self.limits = Limits(frame_bytes=MAX_FRAME_BYTES, items=MAX_ITEMS, blocks=self.num_blocks, window=WINDOW)
        self.started_ms = started_ms
        self.op_times: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(OP_BOUNDS))
        self.events: Events | None = None
        self.weights: Callable[[], tuple[WeightsInfo, ...]] = tuple
        self._ids = ids
        self._peers: dict[bytes, Peer] = {}

    def admit(self, pid: int) -> Peer:
        """A process connected to the side socket: make the token with which it may attach, once."""
        peer = Peer(pid, self._ids())
        self._peers[peer.token] = peer
        return peer

    def oldest_unattached(self) -> Peer | None:
        """Of the processes whose token is still unused, the one that connected first."""
        return next(iter(self._peers.values()), None)

    def fresh_id(self) -> bytes:
        """A name for something that lives in this boot only."""
        return self._ids()

    def forget(self, peer: Peer) -> None:
        """The process went away: its token, if still unused, is void."""
        peer.alive = False
        self._peers.pop(peer.token, None)

    def attach(self, nonce: bytes, token: bytes, name: str, now_ms: int) -> Session:
        """A session for a nonce: a new one, or the one that this nonce already opened. Raises Refusal."""
        known = self.state.sessions.of_nonce(nonce)
        if known is not None:
            if (known.peer.token if known.peer else b"") != token:
                raise Refusal("NOT_PERMITTED", "this nonce was used with another token")
            return known
        peer = None
        if token:
            if token not in self._peers:
                raise Refusal("NOT_PERMITTED", "unknown token: it is used up, or its side socket was closed")
            self._insist_on_free(name, self._peers[token])
            peer = self._peers.pop(token)
        return lifecycle.attach(self.state, self._ids(), nonce, name, peer, now_ms + self.lease_ms)

    def _insist_on_free(self, name: str, newcomer: Peer) -> None:
        """Raise Refusal if another living process has the name: a request for that engine would get either.

        A process may attach anew before its old session has gone; pid 0 is one of another pid namespace, which cannot
        be told from another there.
        """
        for session in self.state.sessions.all():
            peer = session.peer
            if name and session.name == name and peer and peer.alive and peer.pid not in (0, newcomer.pid):
                reason = f"another process (pid {peer.pid}) is attached as {name!r}: give this one another --name"
                raise Refusal("NAME_TAKEN", reason, {"pid": peer.pid})
