"""A sequence's digests in one share domain, extended as tokens come.

The chain holds the tokens and the digests of their full blocks, so that a prompt and then its generated tokens cost
one hash a block, once. Hashing is put off until a digest is asked for: a decode step that completes no block that
is asked about costs an append, and the blocks of many steps are hashed in one pass. Forking a chain at a point
keeps the digests of the blocks below it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from quire_proto.wire.digests import DIGEST_BYTES, ROOT_PARENT, begin, chain, link
from quire_proto.wire.u32 import pack_u32, unpack_u32


class DomainChain:
    """Tokens of one sequence and the digests of its full blocks, from token 0, under one domain's key.

    Attributes:
        ids: the tokens, as numbers of the machine. Its holder may append to them.
    """

    def __init__(self, key: bytes, block_size: int, tokens: Iterable[int] | bytes = b"") -> None:
        """``tokens``: ids, or packed little-endian u32."""
        self.block_size = block_size
        self._key = key
        self._digests = b""
        self.ids: array[int] = array("I")
        self.append(tokens)

    def __len__(self) -> int:
        """Tokens so far."""
        return len(self.ids)

    @property
    def blocks(self) -> int:
        """Full blocks so far: the number of digests."""
        return len(self.ids) // self.block_size

    @property
    def tokens(self) -> bytes:
        """All tokens, packed."""
        return pack_u32(self.ids)

    def append(self, tokens: Iterable[int] | bytes) -> int:
        """Add tokens; returns the number of full blocks now."""
        self.ids.extend(unpack_u32(tokens) if isinstance(tokens, bytes) else tokens)
        return self.blocks

    def digests(self, first: int = 0, end: int | None = None) -> bytes:
        """Digests of blocks ``first`` to ``end`` (exclusive; None: all full ones), concatenated."""
        full = len(self.ids) // self.block_size
        end = full if end is None else end
        assert 0 <= first <= end <= full, "digests of blocks that are not full"
        known = len(self._digests) // DIGEST_BYTES
        if known < end:
            fresh = pack_u32(self.ids[known * self.block_size : end * self.block_size])
            parent = self._digests[-DIGEST_BYTES:] or ROOT_PARENT
            if end == known + 1:  # a sequence that decodes
                self._digests += link(begin(self._key), parent, fresh)
            else:
                self._digests += chain(self._key, fresh, self.block_size, parent)
        return self._digests[DIGEST_BYTES * first : DIGEST_BYTES * end]

    def packed(self, first: int, end: int) -> bytes:
        """Tokens of the full blocks ``first`` to ``end`` (exclusive), packed."""
        assert 0 <= first <= end <= self.blocks, "tokens of blocks that are not full"
        return pack_u32(self.ids[first * self.block_size : end * self.block_size])

    def fork(self, tokens: int) -> DomainChain:
        """A chain of the first ``tokens`` tokens."""
        assert 0 <= tokens <= len(self), "fork past the end"
        child = DomainChain(self._key, self.block_size)
        child.ids = self.ids[:tokens]
        child._digests = self._digests[: DIGEST_BYTES * (tokens // self.block_size)]
        return child
