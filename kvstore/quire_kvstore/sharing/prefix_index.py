"""PrefixIndex: from a digest to the one block that holds its content.

Invariants:
- a digest names one block and a block has at most one digest; both directions are kept;
- only sealed blocks are named;
- the parent of every entry is the root, an indexed digest, or a publication (then the entry is *anchored*: a
  publication is pinned, so it stands in for the chain below; once unpublished it leads to no hit any more, and what
  is anchored at it lies there unreached until it is evicted);
- an entry remembers its parent's digest: a hit follows the chain, so a digest that was sealed under one parent can
  never be reached from another.

Removing an entry removes all that hang below it. That is rare: what holds a block holds the chain below it and gives
it up from the tail, so the least recently used entry is nearly always a leaf. Only a fork that shares a block which
its sibling sealed above another's parent may outlive that parent.

So a chain is never indexed beyond its first missing block. That monotony makes the longest hit a binary search;
collecting the blocks then verifies it link by link.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from quire_proto.wire.digests import ROOT_PARENT

from .change_log import Journal


@dataclass(slots=True)
class Entry:
    """One indexed block. ``anchor``: id of the publication that is its parent, or None."""

    block: int
    digest: bytes
    parent: bytes
    anchor: str | None = None


class PrefixIndex:
    """Digests of sealed blocks.

    Attributes:
        journal: where it is noted what becomes of names once they are there; None: nowhere.
    """

    def __init__(self) -> None:
        self.journal: Journal | None = None
        self._by_digest: dict[bytes, Entry] = {}
        self._by_block: dict[int, Entry] = {}
        # A chain is a chain nearly everywhere: the first child of a digest is kept apart from the rare others.
        self._child: dict[bytes, bytes] = {}
        self._siblings: dict[bytes, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, digest: bytes) -> Entry | None:
        """The entry of a digest."""
        return self._by_digest.get(digest)

    def lacks(self, digests: Iterable[bytes]) -> bool:
        """Whether none of these is indexed."""
        return self._by_digest.keys().isdisjoint(digests)

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
        self._by_digest[entry.digest] = self._by_block[entry.block] = entry
        if entry.anchor is None:
            self._link(entry.parent, entry.digest)

    def add_chain(self, blocks: list[int], digests: list[bytes], parent: bytes) -> list[Entry] | None:
        """Index blocks under names that are new, the first below ``parent``, each other below the one before.

        Returns None, and nothing happened, if a block or a name is taken.
        """
        by_digest, by_block = self._by_digest, self._by_block
        if not by_digest.keys().isdisjoint(digests) or not by_block.keys().isdisjoint(blocks):
            return None
        if ROOT_PARENT in digests or len(set(digests)) != len(digests):
            return None
        entries = list(map(Entry, blocks, digests, [parent, *digests[:-1]]))
        by_digest.update(zip(digests, entries, strict=True))
        by_block.update(zip(blocks, entries, strict=True))
        self._child.update(pairwise(digests))
        self._link(parent, digests[0])
        return entries

    def add_below(self, block: int, below: int, digest: bytes) -> Entry | None:
        """Index one block as the child of another block, if nothing stands against it: for decoding batches, fast."""
        parent = self._by_block.get(below)
        if parent is None or digest in self._by_digest or block in self._by_block or digest == ROOT_PARENT:
            return None
        entry = self._by_digest[digest] = self._by_block[block] = Entry(block, digest, parent.digest)
        self._link(parent.digest, digest)
        return entry

    def _link(self, parent: bytes, digest: bytes) -> None:
        """Note a digest as the child of another, so that it goes when that goes. A root never goes."""
        if parent != ROOT_PARENT and self._child.setdefault(parent, digest) is not digest:
            self._siblings.setdefault(parent, set()).add(digest)

    def anchor(self, block: int, publication: str) -> None:
        """Make a publication the parent of an indexed block."""
        entry = self._by_block[block]
        self._unlink(entry)
        entry.anchor = publication
        if self.journal is not None:
            self.journal.anchored(entry.digest, publication)

    def remove(self, blocks: Iterable[int]) -> list[int]:
        """Forget blocks and all that hang below them; returns every block that has lost its name."""
        removed = []
        todo = [self._by_block[block].digest for block in blocks]
        while todo:
            entry = self._by_digest.pop(todo.pop(), None)
            if entry is not None:
                del self._by_block[entry.block]
                self._unlink(entry)
                if entry.digest in self._child:
                    todo.append(self._child.pop(entry.digest))
                    todo += self._siblings.pop(entry.digest, ())
                removed.append(entry.block)
                if self.journal is not None:
                    self.journal.removed(entry.digest)
        return removed

    def _unlink(self, entry: Entry) -> None:
        siblings = self._siblings.get(entry.parent)
        if self._child.get(entry.parent) == entry.digest:
            del self._child[entry.parent]
            if siblings:
                self._child[entry.parent] = siblings.pop()
        elif siblings is not None:
            siblings.discard(entry.digest)
        if siblings is not None and not siblings:
            del self._siblings[entry.parent]

    def longest(self, digests: Sequence[bytes], start: int, end: int) -> list[int]:
        """Blocks of the longest indexed run of ``digests[start:end]``.

        The run hangs on ``digests[start - 1]``, or on the root.
        """
        if start == end or digests[start] not in self._by_digest:
            return []
        found = bisect_left(range(start, end), True, key=lambda i: digests[i] not in self._by_digest)
        run = digests[start : start + found]
        entries = [entry for entry in map(self._by_digest.get, run) if entry is not None]
        parents = [digests[start - 1] if start else ROOT_PARENT, *run[:-1]]
        blocks = [entry.block for entry in entries]
        # Made-up digests may form a ring or hang elsewhere; a table never holds a block twice.
        if [entry.parent for entry in entries] == parents[:found] and len(set(blocks)) == found:
            return blocks
        seen: dict[int, None] = {}
        for digest, parent in zip(run, parents, strict=True):
            entry = self._by_digest.get(digest)
            if entry is None or entry.parent != parent or entry.block in seen:
                break
            seen[entry.block] = None
        return list(seen)
