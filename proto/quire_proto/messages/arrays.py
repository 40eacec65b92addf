"""Packed arrays in bodies: their types name the bytes of an element, which the codec checks; and the codes of items."""

from __future__ import annotations

from typing import Annotated

from quire_proto.wire.codec import Whole

U32s = Annotated[bytes, Whole(4)]
Pairs = Annotated[bytes, Whole(8)]
Triples = Annotated[bytes, Whole(12)]
Quads = Annotated[bytes, Whole(16)]
Digests = Annotated[bytes, Whole(32)]

# Item codes: the result of one item of a step. "No space" is a result, not an error.
OK, NO_SUCH, CONFLICT, NO_SPACE, UNPUBLISHED, RETRY, CLAIMED = range(7)
