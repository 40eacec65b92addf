"""Stamps: an arena whose content can be judged.

A slot holds one number that depends on whose it is and on all tokens up to it, as keys and values do. So whoever reads
a slot knows whether it was written at all, for these tokens, and in a share domain that the reader may see. Tokens
that a publication begins with may have been written for the public or by the tenant itself (a fork may leave the
publication before its end); everything else by the tenant alone.
"""

from __future__ import annotations

import hashlib

import numpy as np

PUBLIC = "(public)"


def stamp(domain: str, tokens: list[int], position: int) -> int:
    """What the slot of ``tokens[position]`` holds."""
    text = f"{domain}|{tokens[: position + 1]}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")


class Slots:
    """The content of all blocks. ``publications``: token lists that are shared on purpose."""

    def __init__(self, blocks: int, block_size: int, publications: list[list[int]]) -> None:
        self.content = np.zeros((blocks, block_size), np.int64)
        self._size = block_size
        self._publications = publications

    def shared(self, tokens: list[int]) -> int:
        """Leading tokens that belong to a publication that ``tokens`` begin with."""
        begun = (len(p) for p in self._publications if tokens[: len(p)] == p)
        return max(begun, default=0)

    def write(self, block: int, tenant: str, tokens: list[int], position: int, public: bool = False) -> None:
        """Compute one token: stamp its slot."""
        domain = PUBLIC if public and position < self.shared(tokens) else tenant
        self.content[block, position % self._size] = stamp(domain, tokens, position)

    def copy(self, src: int, dst: int, slots: int) -> None:
        """The first ``slots`` slots of one block into another."""
        self.content[dst, :slots] = self.content[src, :slots]

    def read(self, block: int, tenant: str, tokens: list[int], position: int) -> None:
        """Attend to one token: AssertionError unless its slot holds what this tenant may read there."""
        held = int(self.content[block, position % self._size])
        allowed = {stamp(tenant, tokens, position)}
        begun = tokens[: position + 1]
        if any(published[: position + 1] == begun for published in self._publications):
            allowed.add(stamp(PUBLIC, tokens, position))
        assert held in allowed, f"block {block} holds something else at position {position} of {tenant!r} {tokens}"

    def soil(self, block: int, slot: int) -> None:
        """A process that should write no more writes."""
        self.content[block, slot] = -1
