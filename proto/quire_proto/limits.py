"""Limits of the handshake, checked before anything is sent.

The kvstore refuses what is too large, but a refused request has cost a round trip and consumed its number. Checked
here, a request over a limit is this process's own mistake: ``LimitError``, and nothing left the process.
"""

from __future__ import annotations

from quire_proto.wire.envelope import MAX_FRAME_BYTES
from quire_proto.wire.errors import LimitError
from quire_proto.wire.u32 import unpack_u32

from .messages import Allocate, Extend, Fork, Free, Limits, Step

# Before attach only the frame size is known; the other limits concern ops that need a session anyway.
BEFORE_ATTACH = Limits(frame_bytes=MAX_FRAME_BYTES, items=1, blocks=0, window=1)


def check_frame(frame: bytes, limits: Limits) -> None:
    """Raise LimitError for a frame the kvstore would drop or refuse."""
    if len(frame) > limits.frame_bytes:
        raise LimitError(f"a frame of {len(frame)} bytes; the limit is {limits.frame_bytes}")


def check_body(body: object, limits: Limits, block_size: int) -> None:
    """Raise LimitError for too many items, or for a sequence longer than a block table may be."""
    count = items(body)
    if count > limits.items:
        raise LimitError(f"{count} items in one request; the limit is {limits.items}")
    blocks = -(-_most_tokens(body) // block_size)
    if blocks > limits.blocks:
        raise LimitError(f"a table of {blocks} blocks; the limit is {limits.blocks}")


def items(body: object) -> int:
    """Items of a body: entries of all sections of a step, sequences of a free, children of a fork, else 1."""
    if isinstance(body, Step):
        count = len(body.completed) // 12 + len(body.seals) + sum(map(items, body.forks)) + len(body.allocates)
        count += len(body.offers) + len(body.adopts)
        packed = len(body.releases) // 4 + len(body.copies_done) // 4 + len(body.swaps) // 12
        packed += len(body.fills) // 8 + len(body.extends) // 8
        return packed + count
    if isinstance(body, Free):
        return len(body.sequences) // 4
    if isinstance(body, Fork):
        return max(1, len(body.children) // 4)
    return 1


def _most_tokens(body: object) -> int:
    if isinstance(body, Allocate):
        return max(body.tokens, body.reserve)
    if isinstance(body, Extend):
        return body.tokens
    if isinstance(body, Step):
        return max([*unpack_u32(body.extends)[1::2], *map(_most_tokens, body.allocates)], default=0)
    return 0
