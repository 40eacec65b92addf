"""Task: a request on its way through the server, from the socket to its reply.

A long request is executed in slices, with others between them: what is left of it, and what need not be read twice,
travels with the task.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire_kvstore.sessions.reply_window import Rest
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.claims import Ticket
from quire_proto.wire.envelope import Request

from .op_spans import OpSpans

MAX_WAIT_MS = 60_000


@dataclass(slots=True, eq=False)
class Task:
    """One request of a connection. Times in ms, monotonic.

    Attributes:
        peer: the ROUTER's name of the connection.
        frames: the message without that name; one frame if it is valid.
        received_ms: when it was taken from the socket.
        request: the decoded envelope, once it was decoded.
        attached: the session that it names; None: it names none.
        now_ms: when its present slice began.
        slices: what is left of it after that; None: it has ended.
        blocked: there is no point in going on at once: it waits for the disk.
        busy_ns: what its slices have taken so far.
        spans: of those of its items that are traced.
    """

    peer: bytes
    frames: list[bytes]
    received_ms: int
    request: Request | None = None
    attached: Session | None = None
    now_ms: int = 0
    slices: Rest | None = None
    blocked: bool = False
    busy_ns: int = 0
    spans: OpSpans | None = None

    @property
    def session(self) -> Session:
        """The session it acts for; only ops that need one may ask."""
        assert self.attached is not None, "its op needs a session, which was checked"
        return self.attached

    @property
    def ticket(self) -> Ticket:
        """Where a deferred reply to it goes."""
        assert self.request is not None, "decoded"
        return Ticket(self.peer, self.request.number)

    @property
    def until_ms(self) -> int:
        """When a deferred reply must have been sent."""
        assert self.request is not None, "decoded"
        return self.received_ms + min(self.request.deadline_ms or MAX_WAIT_MS, MAX_WAIT_MS)
