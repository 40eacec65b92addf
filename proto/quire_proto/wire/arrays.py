"""Types of packed arrays in messages: each names the bytes of its elements, which the codec checks.

What is in them is little-endian u32 (``u32``), alone or in rows, or digests.
"""

from __future__ import annotations

from typing import Annotated

from .codec import Whole

U32s = Annotated[bytes, Whole(4)]
Pairs = Annotated[bytes, Whole(8)]
Triples = Annotated[bytes, Whole(12)]
Quads = Annotated[bytes, Whole(16)]
Digests = Annotated[bytes, Whole(32)]
