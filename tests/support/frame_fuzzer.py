"""Fuzzed frames: valid requests of every op, damaged in bytes or in structure, and noise. Seeded."""

from __future__ import annotations

import random
from typing import Any

import msgpack

from quire_proto import messages as m
from quire_proto.messages import handoff as h
from quire_proto.messages import pool_map as p
from quire_proto.messages import sharing as a
from quire_proto.messages.tenants import SetQuota
from quire_proto.wire.codec import to_map
from quire_proto.wire.envelope import VERSION
from quire_proto.wire.u32 import pack_u32

TARGET = (3).to_bytes(16, "big")  # id of the first session of a ``BareService``
BODIES: list[tuple[str, Any]] = [
    ("attach", m.Attach(bytes(16), bytes(16), "x")),
    ("ready", m.Empty()),
    ("heartbeat", m.Heartbeat(3)),
    ("step", m.Step(pack_u32([4]), pack_u32([1]), pack_u32([1, 0, 3]), pack_u32([1, 5]), (m.Seal(1, 0, bytes(32)),))),
    ("step", m.Step(completed=pack_u32([1, 0, 5]), completed_digests=bytes(32))),
    (
        "step",
        m.Step(completed=pack_u32([1, 1, 8, 1, 2, 12]), completed_digests=bytes(range(64)), extends=pack_u32([1, 21])),
    ),
    (
        "step",
        m.Step(forks=(m.Fork(1, pack_u32([7]), 3),), extends=pack_u32([1, 9]), allocates=(m.Allocate(9, "t", 3),)),
    ),
    ("allocate", m.Allocate(5, "t", 9, bytes(64), "p", 1, 12)),
    ("extend", m.Extend(1, 12)),
    ("fork", m.Fork(1, pack_u32([3, 4]), 2)),
    ("seal", m.Seal(1, 0, bytes(32))),
    ("free", m.Free(pack_u32([9, 3]))),
    ("detach", m.Empty()),
    ("offer", h.Offer(1, TARGET, 5)),
    ("adopt", h.Adopt(bytes(16), 5)),
    ("domain", m.Domain("t")),
    ("publications", m.Empty()),
    ("lookup", m.Lookup("p", bytes(64))),
    ("stats", m.Empty()),
    ("tenants", m.Empty()),
    ("quota", SetQuota("t", 40, 0, 3)),
    ("wait", m.Wait(1, bytes(32))),
    ("publish", a.Publish("q", "public", pack_u32([1, 2]))),
    ("unpublish", a.Unpublish("q")),
    ("groups", m.Empty()),
    ("join", a.Join("t", "g")),
    ("leave", a.Leave("t", "g")),
    ("events", m.Empty()),
    ("pool_map", p.AskPoolMap(bytes(16), 1)),
    ("block", p.AskBlock(3)),
    ("seal", m.Seal(1, 0, bytes(32), pack_u32([1, 2, 3, 4]))),
]
ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1, 1.5, float("nan"), "", "x" * 300, b"", bytes(3), bytes(4),
    bytes(16), bytes(32), [], [[]], {}, {"a": 1}, [1] * 50, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1),
]  # fmt: skip


class Fuzzer:
    """Damaged frames, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def frame(self, boot: bytes, session: bytes, number: int) -> bytes:
        """One frame of a session whose next ordered number is ``number``."""
        op, body = self._random.choice(BODIES)
        envelope = [VERSION, boot, session, number, op, 0, to_map(body)]
        kind = self._random.randrange(8)
        if kind == 0:
            return self._random.randbytes(self._random.randrange(200))
        if kind <= 4:
            for _ in range(self._random.randint(1, 3)):
                self._damage_value(envelope)
            return _pack(envelope)
        return self._damage_bytes(bytearray(_pack(envelope)))

    def _damage_value(self, value: Any) -> None:
        """Replace, drop, add or double something somewhere in a nested value."""
        keys = list(range(len(value))) if isinstance(value, list) else list(value)
        if keys and self._random.random() < 0.9:
            key = self._random.choice(keys)
            inner = value[key]
            if isinstance(inner, (list, dict)) and inner and self._random.random() < 0.7:
                self._damage_value(inner)
            elif self._random.random() < 0.2:
                del value[key]
            elif isinstance(inner, bytes) and inner and self._random.random() < 0.5:
                value[key] = bytes(self._damage_bytes(bytearray(inner)))
            elif type(inner) is int and self._random.random() < 0.5:
                value[key] = inner + self._random.randint(-3, 40)
            else:
                value[key] = self._random.choice(ODD)
        elif isinstance(value, list):
            value.append(self._random.choice(ODD))
        else:
            value[self._random.choice(["extra", "tokens", 7, b"k"])] = self._random.choice(ODD)

    def _damage_bytes(self, data: bytearray) -> bytes:
        for _ in range(self._random.randint(1, 4)):
            at = self._random.randrange(len(data) + 1)
            kind = self._random.randrange(4)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << self._random.randrange(8)
            elif kind == 1:
                data[at:at] = self._random.randbytes(self._random.randint(1, 6))
            elif kind == 2:
                del data[at:]
            else:
                data[at : at + 4] = data[at // 2 : at // 2 + self._random.randint(0, 8)]
        return bytes(data)


def _pack(value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except (OverflowError, ValueError):  # a number that MessagePack cannot hold
        return b"\xcf" + bytes(8)
    return packed
