"""Bodies about sessions: attach, ready, heartbeat, detach, and what the kvstore says of itself to a new one."""

from __future__ import annotations

from dataclasses import dataclass

from quire_proto.wire.arrays import U32s
from quire_proto.wire.handles import Handle
from quire_proto.wire.layout import Layout


@dataclass(frozen=True, slots=True)
class Empty:
    """A body without fields."""


@dataclass(frozen=True, slots=True)
class Attach:
    """Open a session. ``token`` (from the side socket) makes it writable; the same ``nonce`` gives the same session."""

    nonce: bytes
    token: bytes = b""
    name: str = ""
    layout: Layout | None = None
    gpu_uuid: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kvstore accepts from one session."""

    frame_bytes: int
    items: int
    blocks: int
    window: int


@dataclass(frozen=True, slots=True)
class Publication:
    """A prompt put into a share domain. ``state``: ``pending`` (not computed yet) or ``ready``."""

    id: str
    generation: int
    domain: str
    tokens: U32s
    state: str


@dataclass(frozen=True, slots=True)
class Attached:
    """Reply to attach. The session is ``attached``; after mapping the arena the client sends ``ready``.

    ``wants_tokens``: seals should name their tokens, which the operator has asked for in the event stream.
    """

    session: bytes
    lease_ms: int
    limits: Limits
    layout: Layout
    num_blocks: int
    arena: Handle
    publications: tuple[Publication, ...]
    publications_generation: int
    wants_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Extend the lease; ``progress`` counts the steps completed."""

    progress: int = 0


@dataclass(frozen=True, slots=True)
class Alive:
    """Reply to a heartbeat."""

    lease_ms: int
    publications_generation: int


@dataclass(frozen=True, slots=True)
class Detached:
    """Reply to detach: how many references came back."""

    references: int
