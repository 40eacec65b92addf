"""PrefixIndex: from a digest to the one block that holds its content.

Invariants:
- a digest names one block and a block has at most one digest; both directions are kept;
- only sealed blocks are named;
- the parent of every entry is the root, an indexed digest, or a publication (then the entry is *anchored*: a
  publication is pinned for good, so it stands in for the chain below);
- an entry remembers its parent's digest: a hit follows the chain, so a digest that was sealed under one parent can
  never be reached from another.

A chain that is indexed up to one block is not indexed beyond its first missing one, for parents outlive their
children. That monotony makes the longest hit a binary search; collecting the blocks then verifies it link by link.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quire_proto.digests import ROOT_PARENT


@dataclass(slots=True)
class Entry:
    """One indexed block. ``anchor``: id of the publication that is its parent, or None."""

    block: int
    digest: bytes
    parent: bytes
    anchor: str | None = None


class PrefixIndex:
    """Digests of sealed blocks."""

    def __init__(self) -> None:
        self._by_digest: dict[bytes, Entry] = {}
        self._by_block: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, digest: bytes) -> Entry | None:
        """The entry of a digest."""
        return self._by_digest.get(digest)

    def of_block(self, block: int) -> Entry | None:
        """The entry of a block."""
        return self._by_block.get(block)

    def entries(self) -> Iterable[Entry]:
        """All entries."""
        return self._by_digest.values()

    def add(self, entry: Entry) -> None:
        """Index a sealed block."""
        assert entry.digest not in self._by_digest, "a digest names one block"
        assert entry.block not in self._by_block, "a block has one digest"
        self._by_digest[entry.digest] = entry
        self._by_block[entry.block] = entry

    def anchor(self, block: int, publication: str) -> None:
        """Make a publication the parent of an indexed block."""
        self._by_block[block].anchor = publication

    def remove(self, blocks: Iterable[int]) -> None:
        """Forget evicted blocks."""
        for block in blocks:
            del self._by_digest[self._by_block.pop(block).digest]

    def longest(self, digests: Sequence[bytes], start: int, end: int) -> list[int]:
        """Blocks of the longest indexed run of ``digests[start:end]``.

        The run hangs on ``digests[start - 1]``, or on the root.
        """
        found = bisect_left(range(start, end), True, key=lambda i: digests[i] not in self._by_digest)
        blocks: list[int] = []
        parent = digests[start - 1] if start else ROOT_PARENT
        for digest in digests[start : start + found]:
            entry = self._by_digest.get(digest)
            if entry is None or entry.parent != parent:
                break
            blocks.append(entry.block)
            parent = digest
        return blocks
