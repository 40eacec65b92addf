"""Stamps: an arena whose content can be judged.

A slot holds one number that depends on whose it is and on all tokens up to it, as keys and values do. So whoever reads
a slot knows whether it was written at all, for these tokens, and in a share domain that the reader may see. Tokens
that a publication begins with may have been written for its domain or by the tenant itself (a fork may leave the
publication before its end); everything else by the tenant alone. Of a group's content a tenant may read what it came
to hold while it was a member, so here it may if it ever was one: that a former member gets no more is not told by
content.
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
    """The content of all blocks.

    Attributes:
        whose: in whose domain each slot was written, "" where it was zeroed since.
        prompts: what was ever shared on purpose, as (domain, tokens).
        readers: (domain, tenant) of all that were ever entitled to more than ``PUBLIC``.
    """

    def __init__(
        self, blocks: int, block_size: int, prompts: list[tuple[str, list[int]]], readers: set[tuple[str, str]]
    ) -> None:
        self.content = np.zeros((blocks, block_size), np.int64)
        self.whose = np.full((blocks, block_size), "", "U16")
        self._size = block_size
        self.prompts, self.readers = prompts, readers

    def shared(self, domain: str, tokens: list[int]) -> int:
        """Leading tokens that belong to a publication of the domain that ``tokens`` begin with."""
        begun = (len(p) for where, p in self.prompts if where == domain and tokens[: len(p)] == p)
        return max(begun, default=0)

    def write(self, block: int, tenant: str, tokens: list[int], position: int, domain: str = "") -> None:
        """Compute one token: stamp its slot. ``domain``: of the publication that the sequence begins with."""
        whose = domain if domain and position < self.shared(domain, tokens) else tenant
        self.content[block, position % self._size] = stamp(whose, tokens, position)
        self.whose[block, position % self._size] = whose

    def copy(self, src: int, dst: int, slots: int) -> None:
        """The first ``slots`` slots of one block into another."""
        self.content[dst, :slots] = self.content[src, :slots]
        self.whose[dst, :slots] = self.whose[src, :slots]

    def read(self, block: int, tenant: str, tokens: list[int], position: int) -> None:
        """Attend to one token: AssertionError unless its slot holds what this tenant may read there."""
        held = int(self.content[block, position % self._size])
        allowed = {stamp(tenant, tokens, position)}
        begun = tokens[: position + 1]
        for domain, published in self.prompts:
            if published[: position + 1] == begun and (domain == PUBLIC or (domain, tenant) in self.readers):
                allowed.add(stamp(domain, tokens, position))
        assert held in allowed, f"block {block} holds something else at position {position} of {tenant!r} {tokens}"

    def soil(self, block: int, slot: int, tenant: str) -> None:
        """A process that should write no more writes."""
        self.content[block, slot], self.whose[block, slot] = -1, tenant

    def scrub(self, block: int) -> None:
        """Zero a block."""
        self.content[block], self.whose[block] = 0, ""

    def clean(self, block: int, tenant: str) -> None:
        """AssertionError if a block that a tenant has written to still holds what it may not read."""
        others = set(self.whose[block].tolist()) - {"", tenant, PUBLIC}
        assert all((domain, tenant) in self.readers for domain in others), f"block {block} of {tenant!r} holds {others}"
