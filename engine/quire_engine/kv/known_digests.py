"""KnownDigests: what this engine knows of the prefix index without asking.

*Sealed* digests were named by the kvstore's answers: the longest run of them at a sequence's beginning is the hit it
will probably get. The scheduler admits by that guess, the kvstore's answer decides: a digest evicted since costs a
sequence its place in one step, never a wrong token.

*Computing* digests are blocks that the kvstore left to a sequence of this engine. What else needs such a block waits
for its seal in this engine, without a message.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from quire_engine.sequences.sequence import Sequence
from quire_proto.wire.digests import split

MAX_SEALED = 1 << 18


class KnownDigests:
    """Sealed digests, and digests in the making with the sequence that computes each."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._sealed: set[bytes] = set()
        self._computing: dict[bytes, Sequence] = {}

    def hit(self, sequence: Sequence) -> int:
        """Tokens of a waiting sequence that are probably computed already."""
        chain = sequence.chain
        unknown = bisect_left(range(chain.blocks), True, key=lambda i: chain.digests(i, i + 1) not in self._sealed)
        return unknown * self._block_size

    def owner(self, digest: bytes) -> Sequence | None:
        """The sequence of this engine that is computing the block, if one is."""
        return self._computing.get(digest)

    def seal(self, digests: Iterable[bytes]) -> None:
        """These are in the index."""
        if len(self._sealed) > MAX_SEALED:
            self._sealed.clear()
        self._sealed.update(digests)

    def admit(self, sequence: Sequence) -> None:
        """A sequence got its table: what it hit is sealed, the rest of its full blocks it computes."""
        self.seal(split(sequence.chain.digests(0, sequence.sealed)))
        self._computing.update(dict.fromkeys(split(sequence.chain.digests(sequence.sealed)), sequence))

    def answered(self, digests: list[bytes]) -> None:
        """The kvstore has answered for these: sealed or not, no sequence computes them any more."""
        for digest in digests if self._computing else ():
            self._computing.pop(digest, None)

    def give_up(self, sequence: Sequence) -> None:
        """A sequence computes no more: what it has not sealed of its prompt nothing computes now."""
        promised = min(sequence.promised // self._block_size, sequence.chain.blocks)
        for digest in split(sequence.chain.digests(min(sequence.sealed, promised), promised)):
            if self._computing.get(digest) is sequence:
                del self._computing[digest]
