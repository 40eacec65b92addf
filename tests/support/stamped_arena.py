"""Stamped memory: every slot of an arena holds a hash of its domain and of all tokens up to it, as keys and values do.

A reader of a slot knows by its stamp whether it was written at all, for these tokens, and in a domain that may be read:
a wrong copy, a write into a shared block or a hit on the wrong block shows as a stamp that is not allowed. A stamp
begins with its domain's tag, so a block also tells which domains wrote to it. The memory is an array of the test's own
or a mapped arena, whose planes (layers, keys and values, heads) all hold the same.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np

from quire_proto.wire.layout import Layout

PUBLIC = "(public)"
STAMP_BYTES = 32
TAG_BYTES = 4


class ForeignBytes(AssertionError):
    """A slot held something else."""


@cache
def tag(domain: str) -> bytes:
    """What all stamps of a domain begin with."""
    return hashlib.blake2b(domain.encode(), digest_size=TAG_BYTES).digest()


def stamps(domain: str, tokens: list[int], start: int, end: int) -> list[bytes]:
    """Stamps of the slots of ``tokens[start:end]``."""
    running = hashlib.blake2b(domain.encode(), digest_size=STAMP_BYTES - TAG_BYTES)
    running.update(struct.pack(f"<{start}I", *tokens[:start]))
    found = []
    for token in tokens[start:end]:
        running.update(struct.pack("<I", token))
        found.append(tag(domain) + running.digest())
    return found


class StampedArena:
    """The slots of all blocks. Domains are any names: a test without tenants has the one called ""."""

    def __init__(self, slots: np.ndarray) -> None:
        """``slots``: bytes by plane, block and slot."""
        assert slots.shape[3] == STAMP_BYTES, "a slot holds one stamp"
        self._slots = slots
        self._size = slots.shape[2]

    @classmethod
    def in_memory(cls, blocks: int, block_size: int) -> StampedArena:
        """Zeroed memory of its own."""
        return cls(np.zeros((1, blocks, block_size, STAMP_BYTES), np.uint8))

    @classmethod
    def mapped(cls, view: memoryview, layout: Layout, blocks: int) -> StampedArena:
        """The memory of an arena of this layout."""
        planes = 2 * layout.num_layers * layout.num_kv_heads
        return cls(np.frombuffer(view, np.uint8).reshape(planes, blocks, layout.block_size, -1))

    def write(self, table: list[int], tokens: list[int], start: int, end: int, domain: str = "") -> None:
        """Compute ``tokens[start:end]`` in a domain; nothing if ``end`` is not behind ``start``."""
        if start < end:
            for position, stamp in enumerate(stamps(domain, tokens, start, end), start):
                self._slots[:, table[position // self._size], position % self._size] = np.frombuffer(stamp, np.uint8)

    def read(
        self, table: list[int], tokens: list[int], end: int, domains: Mapping[str, int] | None = None, start: int = 0
    ) -> None:
        """Attend to ``tokens[start:end]``.

        ``domains``: those that may have written, each with the position up to which it may; "" everywhere if not given.
        Raises ForeignBytes.
        """
        domains = {"": end} if domains is None else domains
        allowed: list[set[bytes]] = [set() for _ in range(end)]
        for domain, limit in domains.items():
            for position, stamp in enumerate(stamps(domain, tokens, 0, min(limit, end))):
                allowed[position].add(stamp)
        for position, right in enumerate(allowed[start:], start):
            block, slot = table[position // self._size], position % self._size
            first, *others = (plane[block, slot].tobytes() for plane in self._slots)
            if first not in right or any(other != first for other in others):
                text = f"wrong content at token {position} in block {block}"
                raise ForeignBytes(f"{text}, of {sorted(domains)} {tokens[:end]}")

    def copy(self, src: int, dst: int, slots: int) -> None:
        """The first ``slots`` slots of one block into another."""
        self._slots[:, dst, :slots] = self._slots[:, src, :slots]

    def scrub(self, block: int) -> None:
        """Zero a block."""
        self._slots[:, block] = 0

    def clear(self) -> None:
        """Zero all blocks."""
        self._slots[:] = 0

    def spoil(self, block: int, slot: int, domain: str) -> None:
        """A process that should write no more writes: bytes of a domain that are right for no tokens."""
        self._slots[:, block, slot] = np.frombuffer(tag(domain).ljust(STAMP_BYTES, b"\xff"), np.uint8)

    def check_writers(self, block: int, domains: Iterable[str]) -> None:
        """Raises ForeignBytes if a block holds bytes of other domains than these, whatever slots are read."""
        found = {row.tobytes() for row in self._slots[:, block, :, :TAG_BYTES].reshape(-1, TAG_BYTES)}
        if found - {bytes(TAG_BYTES), *map(tag, domains)}:
            raise ForeignBytes(f"block {block} holds bytes of others than {sorted(domains)}")

    def close(self) -> None:
        """Let go of the memory, so that it can be unmapped."""
        del self._slots
