"""Session: one attached process, its lease and the ledger of all it holds.

    attached --ready--> ready --lease passed, or side socket closed--> fenced --dead or detached--> gone

Invariants: every reference in the pool belongs to exactly one session's sequences or to a publication; a fenced
session's references are all in quarantine; a session that never became ready holds nothing and simply lapses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .reply_window import ReplyWindow
from .sequence import Sequence

MAX_SEQUENCES = 1 << 16  # of a session
ATTACHED, READY, FENCED = "attached", "ready", "fenced"


@dataclass(slots=True, eq=False)
class Peer:
    """A process at the side socket. ``token`` is what ties a session to it, once."""

    pid: int
    token: bytes
    alive: bool = True


@dataclass(slots=True, eq=False)
class Session:
    """One session.

    Attributes:
        peer: the process behind a writable session; None for one that only reads.
        lease_until: time (ms) at which the session is fenced.
        fenced_at: time (ms) at which it was.
        stays: it was fenced, its process lives on and may not be killed.
        sequences: by the number the client chose.
        copies: outstanding copies, by copy id, to the number of their sequence.
        unsent: replies that its socket did not take: how slow its reader is.
        window: replies to its last ordered requests.
    """

    id: bytes
    nonce: bytes
    name: str
    peer: Peer | None
    lease_until: int
    state: str = ATTACHED
    fenced_at: int = 0
    stays: bool = False
    progress: int = 0
    sequences: dict[int, Sequence] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    next_copy: int = 1
    unsent: int = 0
    window: ReplyWindow = field(default_factory=ReplyWindow)

    @property
    def writable(self) -> bool:
        """Whether the session may hold blocks."""
        return self.peer is not None

    def references(self) -> int:
        """How many references the session holds."""
        return sum(sequence.references() for sequence in self.sequences.values())


class Sessions(dict[bytes, Session]):
    """All sessions by id, and by the nonce they attached with. Changed by :meth:`add` and :meth:`remove` alone."""

    def __init__(self) -> None:
        super().__init__()
        self._by_nonce: dict[bytes, Session] = {}

    def all(self) -> list[Session]:
        """Every session, in the order of attaching."""
        return list(self.values())

    def of_nonce(self, nonce: bytes) -> Session | None:
        """The session that attached with this nonce."""
        return self._by_nonce.get(nonce)

    def of_peer(self, peer: Peer) -> list[Session]:
        """Sessions of a process (one token opens one session, so at most one)."""
        return [session for session in self.values() if session.peer is peer]

    def add(self, session: Session) -> None:
        """Enter a session."""
        self[session.id] = session
        self._by_nonce[session.nonce] = session

    def remove(self, session: Session) -> None:
        """Forget a session."""
        del self[session.id]
        del self._by_nonce[session.nonce]
