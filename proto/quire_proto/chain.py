"""A sequence's digests in one share domain, extended as tokens come.

The chain holds the packed tokens and the digests of their full blocks, so that a prompt and then its generated
tokens cost one hash a block, once. Forking a chain at a point keeps the digests of the blocks below it.
"""

from __future__ import annotations

from collections.abc import Iterable

from .digests import DIGEST_BYTES, ROOT_PARENT, chain
from .packed import pack


class DomainChain:
    """Tokens of one sequence and the digests of its full blocks, from token 0, under one domain's key."""

    def __init__(self, key: bytes, block_size: int, tokens: Iterable[int] | bytes = b"") -> None:
        """``tokens``: ids, or packed little-endian u32."""
        self.block_size = block_size
        self._key = key
        self._tokens = bytearray()
        self._digests = bytearray()
        self.append(tokens)

    def __len__(self) -> int:
        """Tokens so far."""
        return len(self._tokens) // 4

    @property
    def blocks(self) -> int:
        """Full blocks so far: the number of digests."""
        return len(self._digests) // DIGEST_BYTES

    @property
    def tokens(self) -> bytes:
        """All tokens, packed."""
        return bytes(self._tokens)

    def append(self, tokens: Iterable[int] | bytes) -> int:
        """Add tokens; returns the number of full blocks now."""
        self._tokens += tokens if isinstance(tokens, bytes) else pack(tokens)
        start = 4 * self.block_size * self.blocks
        if len(self._tokens) - start >= 4 * self.block_size:
            parent = bytes(self._digests[-DIGEST_BYTES:]) or ROOT_PARENT
            self._digests += chain(self._key, bytes(self._tokens[start:]), self.block_size, parent)
        return self.blocks

    def digests(self, first: int = 0, end: int | None = None) -> bytes:
        """Digests of blocks ``first`` to ``end`` (exclusive; None: all full ones), concatenated."""
        end = self.blocks if end is None else end
        assert 0 <= first <= end <= self.blocks, "digests of blocks that are not full"
        return bytes(self._digests[DIGEST_BYTES * first : DIGEST_BYTES * end])

    def packed(self, first: int, end: int) -> bytes:
        """Tokens of the full blocks ``first`` to ``end`` (exclusive), packed."""
        assert 0 <= first <= end <= self.blocks, "tokens of blocks that are not full"
        step = 4 * self.block_size
        return bytes(self._tokens[first * step : end * step])

    def fork(self, tokens: int) -> DomainChain:
        """A chain of the first ``tokens`` tokens."""
        assert 0 <= tokens <= len(self), "fork past the end"
        child = DomainChain(self._key, self.block_size)
        child._tokens = self._tokens[: 4 * tokens]
        child._digests = self._digests[: DIGEST_BYTES * (tokens // self.block_size)]
        return child
