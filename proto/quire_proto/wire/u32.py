"""Packed arrays on the wire: little-endian u32 as ``bytes``.

Token ids, block ids and number pairs travel as bytes, not as MessagePack lists: decoding 2,048 ids from a list
costs 0.4 ms, from bytes nothing. Only the standard library is used here, so that a client needs no numpy;
a program that has numpy reads the same bytes with ``np.frombuffer(data, "<u4")``.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

U32_MAX = 0xFFFF_FFFF
_BIG_ENDIAN = sys.byteorder == "big"


def pack_u32(values: Iterable[int]) -> bytes:
    """u32 values as little-endian bytes. Raises OverflowError for a value outside 0..2**32-1."""
    numbers = values if isinstance(values, array) and values.typecode == "I" and not _BIG_ENDIAN else array("I", values)
    if _BIG_ENDIAN:
        numbers.byteswap()
    return numbers.tobytes()


def unpack_u32(data: bytes) -> array[int]:
    """Little-endian bytes as an array of u32. Raises ValueError if the length is not a multiple of 4."""
    numbers: array[int] = array("I")
    numbers.frombytes(data)
    if _BIG_ENDIAN:
        numbers.byteswap()
    return numbers


def unpack_rows(data: bytes, width: int) -> list[tuple[int, ...]]:
    """Packed rows of ``width`` numbers each, e.g. (copy id, src, dst, slots). ValueError on a partial row."""
    if len(data) % (4 * width):
        raise ValueError(f"{len(data)} bytes are not rows of {width} u32")
    it = iter(unpack_u32(data))
    return list(zip(*[it] * width, strict=True))
