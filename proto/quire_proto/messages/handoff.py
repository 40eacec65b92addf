"""Bodies of ``offer`` and ``adopt``: a live sequence goes from one session to another (PROTOCOL.md section 11)."""

from __future__ import annotations

from dataclasses import dataclass

from quire_proto.wire.arrays import U32s


@dataclass(frozen=True, slots=True)
class Offer:
    """Hand a quiesced sequence to another session; it stays ours until adopted. ``trace``: as in ``Allocate``."""

    sequence: int
    target: bytes
    expires_ms: int
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Offered:
    """Name of the offer. ``code``: an item code; in a step nothing is offered if it is not OK."""

    code: int
    offer: bytes = b""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take an offered sequence over under an own id. ``trace``: as in ``Allocate``."""

    offer: bytes
    sequence: int
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Adopted:
    """The sequence as it is now ours. ``capacity``: tokens up to which it may be written. ``code``: an item code; in
    a step nothing is adopted if it is not OK. ``behind``: leading entries of ``blocks`` that were given back."""

    code: int
    tenant: str = ""
    blocks: U32s = b""
    fill: int = 0
    capacity: int = 0
    sealed: int = 0
    publication: str = ""
    behind: int = 0
