"""Stamped memory: every slot of the real arena holds a hash of whose it is and of all tokens up to it.

A slot's K is 32 bytes, and so is its V: both are the stamp. A reader of a slot knows by it whether it was written for
these tokens, in a domain that it may read. Tokens that a publication begins with may carry the stamp of the public.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from quire_proto.wire.layout import Layout

PUBLIC = "(public)"
LAYOUT = Layout("chaos", "w0", "{}", "", "float32", 4, 1, 1, 8)
STAMP_BYTES = 32


class ForeignBytes(Exception):
    """A slot held something else."""


def stamps(domain: str, tokens: list[int], start: int, end: int) -> list[bytes]:
    """Stamps of the slots of ``tokens[start:end]``."""
    running = hashlib.blake2b(domain.encode(), digest_size=STAMP_BYTES)
    running.update(struct.pack(f"<{start}I", *tokens[:start]))
    found = []
    for token in tokens[start:end]:
        running.update(struct.pack("<I", token))
        found.append(running.digest())
    return found


class Arena:
    """The mapped arena as slots."""

    def __init__(self, view: memoryview, blocks: int) -> None:
        shape = (2, blocks, LAYOUT.block_size, STAMP_BYTES)  # one layer and one head
        self._slots = np.frombuffer(view, np.uint8).reshape(shape)

    def write(self, table: list[int], tokens: list[int], start: int, owners: list[tuple[int, str]]) -> None:
        """Compute ``tokens[start:]``. ``owners``: (end, domain) rows, ascending: whose tokens up to ``end`` are."""
        for end, domain in owners:
            for position, stamp in enumerate(stamps(domain, tokens, start, max(start, end)), start):
                block, slot = table[position // LAYOUT.block_size], position % LAYOUT.block_size
                self._slots[0, block, slot] = self._slots[1, block, slot] = np.frombuffer(stamp, np.uint8)
            start = max(start, end)

    def read(self, table: list[int], tokens: list[int], end: int, tenant: str, shared: int) -> None:
        """Attend to ``tokens[:end]``, of which the first ``shared`` may be the public's. Raises ForeignBytes."""
        own, public = stamps(tenant, tokens, 0, end), stamps(PUBLIC, tokens, 0, min(shared, end))
        size = LAYOUT.block_size
        for position in range(end):
            keys, values = (self._slots[plane, table[position // size], position % size].tobytes() for plane in (0, 1))
            allowed = {own[position], *public[position : position + 1]}
            if keys != values or keys not in allowed:
                raise ForeignBytes(f"block {table[position // size]}, position {position} of {tenant} {tokens[:end]}")

    def copy(self, src: int, dst: int, slots: int) -> None:
        """The first ``slots`` slots of one block into another."""
        self._slots[:, dst, :slots] = self._slots[:, src, :slots]

    def scrub(self, block: int) -> None:
        """Zero a block."""
        self._slots[:, block] = 0

    def close(self) -> None:
        """Let go of the memory, so that it can be unmapped."""
        del self._slots
