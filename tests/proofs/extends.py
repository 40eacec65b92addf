"""The extends of a step, each as the reply that its single form would have had."""

from __future__ import annotations

from itertools import chain

from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32


def extends_of(step: m.Step, reply: m.Stepped) -> dict[int, m.Extended]:
    """By sequence: code, new end of the table, and those copies and scrubs that concern its new blocks."""
    found = {}
    copies, scrubs = unpack_rows(reply.copies, 4), unpack_u32(reply.scrub)
    for (number, _), code in zip(unpack_rows(step.extends, 2), reply.extends, strict=True):
        rows = [(index, block) for sequence, index, block in unpack_rows(reply.blocks, 3) if sequence == number]
        blocks = [block for _, block in rows]
        own = pack_u32(chain.from_iterable(row for row in copies if row[2] in blocks))
        scrub = pack_u32([block for block in scrubs if block in blocks])
        found[number] = m.Extended(code, rows[0][0] if rows else 0, pack_u32(blocks), own, scrub)
    return found
