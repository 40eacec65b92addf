"""Bodies of ``offer`` and ``adopt``: a live sequence goes from one session to another (PROTOCOL.md section 11)."""

from __future__ import annotations

from dataclasses import dataclass

from quire_proto.wire.arrays import U32s


@dataclass(frozen=True, slots=True)
class Offer:
    """Hand a quiesced sequence to another session; it stays ours until adopted."""

    sequence: int
    target: bytes
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Offered:
    """Name of the offer."""

    offer: bytes


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take an offered sequence over under an own id."""

    offer: bytes
    sequence: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """The sequence as it is now ours. ``capacity``: tokens up to which it may be written."""

    tenant: str
    blocks: U32s
    fill: int
    capacity: int
    sealed: int
    publication: str = ""
