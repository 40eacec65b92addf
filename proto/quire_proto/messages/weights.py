"""Packets of ``weights.sock``: how the processes of one GPU come to one copy of a model's weights.

Each packet is one of these as a map; its field ``type`` says which. The kvstore takes a key for bytes without meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire_proto.wire.handles import Handle


@dataclass(frozen=True, slots=True)
class ClaimWeights:
    """The first packet of a client: it wants the weights of this key."""

    version: int
    key: bytes
    type: str = "claim"


@dataclass(frozen=True, slots=True)
class MakeWeights:
    """From the writer: it knows how many bytes it will write."""

    size: int
    type: str = "make"


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """One tensor of an arena: C-contiguous, ``offset`` bytes from its start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class DeclareWeights:
    """Tensors of the manifest, as many as fit a packet: from the writer before ``seal``, to a reader after ``read``."""

    tensors: tuple[WeightTensor, ...]
    type: str = "declare"


@dataclass(frozen=True, slots=True)
class SealWeights:
    """From the writer: all is written, and nothing will be written any more. ``tensors``: how many were declared."""

    tensors: int
    type: str = "seal"


@dataclass(frozen=True, slots=True)
class BeatWeights:
    """From the writer, while it has nothing else to say: it still works on it."""

    type: str = "beat"


@dataclass(frozen=True, slots=True)
class BringWeights:
    """The first packet of a client that still maps what an earlier kvstore made; its descriptor comes along."""

    version: int
    key: bytes
    arena: bytes
    size: int
    tensors: int
    type: str = "bring"


@dataclass(frozen=True, slots=True)
class ReleaseWeights:
    """The last packet of a client: it has unmapped."""

    type: str = "release"


@dataclass(frozen=True, slots=True)
class WaitWeights:
    """To a client: the process ``pid`` writes them; the next packet says what came of it."""

    pid: int
    type: str = "wait"


@dataclass(frozen=True, slots=True)
class YourWeights:
    """To a client: it is the writer, if it says something at least every ``lease_ms``."""

    lease_ms: int
    type: str = "yours"


@dataclass(frozen=True, slots=True)
class WriteWeights:
    """To the writer: the memory."""

    arena: bytes
    handle: Handle
    type: str = "write"


@dataclass(frozen=True, slots=True)
class ReadWeights:
    """To a reader: the memory, sealed; ``tensors`` tensors follow in ``declare`` packets."""

    arena: bytes
    handle: Handle
    tensors: int
    type: str = "read"


@dataclass(frozen=True, slots=True)
class SealedWeights:
    """To the writer, or to who brought them: others may read now."""

    type: str = "sealed"


@dataclass(frozen=True, slots=True)
class RefusedWeights:
    """To a client: it gets nothing here, and the connection ends."""

    code: str
    message: str
    type: str = "refused"
