"""Packets of ``weights.sock`` to and from bytes. Every failure is a ``CodecError``, whatever the bytes were."""

from __future__ import annotations

from typing import Any

from quire_proto.messages import weights as w
from quire_proto.wire.codec import CodecError, decode, encode, from_map, to_map

WEIGHTS_SOCKET = "weights.sock"
MAX_PACKET = 64 * 1024
TENSORS_A_PACKET = 64  # of the longest name and shape there may be, they still fit one

FROM_CLIENTS = (
    w.ClaimWeights,
    w.MakeWeights,
    w.DeclareWeights,
    w.SealWeights,
    w.BeatWeights,
    w.BringWeights,
    w.ReleaseWeights,
)
FROM_KVSTORE = (
    w.WaitWeights,
    w.YourWeights,
    w.WriteWeights,
    w.ReadWeights,
    w.DeclareWeights,
    w.SealedWeights,
    w.RefusedWeights,
)


def encode_packet(message: Any) -> bytes:
    """One packet."""
    return encode(to_map(message))


def decode_packet(data: bytes, expected: tuple[Any, ...]) -> Any:
    """The message in a packet, of one of these classes. Raises CodecError."""
    value = decode(data, MAX_PACKET)
    kind = value.get("type") if isinstance(value, dict) else None
    for cls in expected:
        if cls.__dataclass_fields__["type"].default == kind:
            return from_map(cls, value)
    raise CodecError("BAD_FIELD", f"type: {str(kind)[:80]!r} is no packet that may come here")


def declarations(tensors: tuple[w.WeightTensor, ...]) -> list[bytes]:
    """A manifest as packets."""
    return [
        encode_packet(w.DeclareWeights(tensors[start : start + TENSORS_A_PACKET]))
        for start in range(0, len(tensors), TENSORS_A_PACKET)
    ]
