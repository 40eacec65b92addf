"""What a session holds besides its socket: side socket, heartbeat thread, mapping, publication list, domain keys.

Both clients keep one, and their common methods read it. Everything here is local and quick; only ``client`` and
``aio`` wait for the kvstore.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq

from quire_proto.memory.mapping import Mapping, open_arena
from quire_proto.messages import Attach, Attached, DomainKey, Limits, Publications
from quire_proto.step.publication_matcher import PublicationList
from quire_proto.wire.errors import KvstoreUnreachable, QuireError, StaleSession
from quire_proto.wire.layout import Layout

from .attach_socket import SideSocket
from .heartbeat import HeartbeatThread
from .requests import Pending, Session
from .socket import Wire

if TYPE_CHECKING:
    from quire_proto.memory.cuda_mapping import DeviceMapping, DeviceMemory

OnLost = Callable[[QuireError], None]


def attach_body(side: SideSocket, name: str, layout: Layout | None, gpu_uuid: str) -> Attach:
    """The body of ``attach``; its nonce makes a resend find the same session."""
    return Attach(nonce=secrets.token_bytes(16), token=side.token, name=name, layout=layout, gpu_uuid=gpu_uuid)


class Attachment:
    """Resources of one attached session, released by ``close``."""

    def __init__(
        self, side: SideSocket, attached: Attached, sent: float, to: str, on_lost: OnLost | None = None
    ) -> None:
        """Start the heartbeats at once; ``sent`` is when ``attach`` was sent (monotonic, s)."""
        self.side, self.attached = side, attached
        self.publications = PublicationList(attached.publications, attached.publications_generation)
        self.domains: dict[str, DomainKey] = {}
        self._mapping: Mapping | DeviceMapping | None = None
        # A context of its own: the clients' contexts may be asyncio ones, and this thread blocks.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.heartbeat = HeartbeatThread(Wire(self._context, to), side, attached, sent, on_lost)

    def map(self) -> memoryview | DeviceMemory:
        """The arena as writable bytes or as device memory, mapped on first use. Raises MapError."""
        if self._mapping is None:
            expected = self.attached.layout.arena_bytes(self.attached.num_blocks)
            self._mapping = open_arena(self.attached.arena, expected, self.side.boot, self.side.arena_fd)
            self.side.close_arena_fd()
        return self._mapping.view

    def refresh(self, fetched: Publications) -> None:
        """Take a new publication list over; which tenant may use which domain may have changed with it."""
        self.publications.replace(fetched.publications, fetched.generation)
        self.domains.clear()

    def check(self) -> None:
        """Raise the reason if the session is lost: no reply to come would count."""
        beats = self.heartbeat
        if self.side.closed():
            beats.lose(StaleSession("STALE_SESSION", "the kvstore closed the side socket"))
        if not beats.lease_valid():
            raise beats.reason or KvstoreUnreachable("the lease passed without an acknowledged heartbeat")

    def notice(self, error: QuireError | None) -> None:
        """Take an answer's error into account: a stale session is lost."""
        if isinstance(error, StaleSession):
            self.heartbeat.lose(error)

    def close(self) -> None:
        """Stop the heartbeats, unmap, close the side socket: in this order, for its end says "unmapped".

        Raises DeviceFault if a device arena cannot be unmapped because the context is poisoned.
        """
        self.heartbeat.close()
        try:
            if self._mapping is not None:
                self._mapping.close()
        finally:
            self.side.close()
            self._context.term()


def unanswered(pending: Pending, session: Session, held: Attachment | None, timeout: float) -> QuireError:
    """The error of a request without a reply. An ordered one ends the session: it may have been applied or not."""
    error = KvstoreUnreachable(f"no reply to {pending.op.name} within {timeout} s")
    if not pending.op.ordered:
        session.abandon(pending)
    elif held is not None:
        held.heartbeat.lose(error)
    return error


class SessionBase:
    """Facts about the session, the same for both clients."""

    _held: Attachment

    @property
    def boot(self) -> bytes:
        """Boot id of the kvstore this session belongs to (16 bytes)."""
        return self._held.side.boot

    @property
    def session_id(self) -> bytes:
        """Id of the session (16 bytes)."""
        return self._held.attached.session

    @property
    def layout(self) -> Layout:
        """Layout of the pool."""
        return self._held.attached.layout

    @property
    def block_size(self) -> int:
        """Tokens in a block."""
        return self._held.attached.layout.block_size

    @property
    def num_blocks(self) -> int:
        """Blocks in the pool."""
        return self._held.attached.num_blocks

    @property
    def wants_tokens(self) -> bool:
        """Whether seals should name their tokens, for the event stream."""
        return self._held.attached.wants_tokens

    @property
    def limits(self) -> Limits:
        """Limits of the handshake."""
        return self._held.attached.limits

    @property
    def publications(self) -> PublicationList:
        """The publication list as last fetched."""
        return self._held.publications

    @property
    def publications_stale(self) -> bool:
        """Whether a heartbeat named a newer list: call ``refresh_publications``."""
        # Not "another": a list that was just fetched is newer than what the last heartbeat knew.
        return self._held.heartbeat.publications_generation > self._held.publications.generation

    @property
    def progress(self) -> int:
        """Steps completed, as the heartbeats report it."""
        return self._held.heartbeat.progress

    @progress.setter
    def progress(self, steps: int) -> None:
        self._held.heartbeat.progress = steps

    @property
    def lost(self) -> threading.Event:
        """Set when the session is lost (see ``heartbeat``); attach again with a new client then."""
        return self._held.heartbeat.lost

    @property
    def lost_reason(self) -> QuireError | None:
        """Why the session was lost, or None."""
        return self._held.heartbeat.reason

    def lease_valid(self) -> bool:
        """Whether this session may still launch work, seal, and keep what it computed."""
        return self._held.heartbeat.lease_valid()

    def map(self) -> memoryview | DeviceMemory:
        """The arena: a writable memoryview of bytes, or a device address and size (layout: ``Layout.shape``).

        Raises MapError. Device memory is unmapped when the session is closed or detached, used or not.
        """
        return self._held.map()
