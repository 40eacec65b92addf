"""DensityPolicy: evict the block that promises the fewest hits per second of space it takes.

``ReuseModel`` scores the class and age of a block; ``LruShadow`` says when to evict as LRU does instead. This file
keeps what they need about each block, and finds the lowest score.

Invariants:
- only a *leaf* is evicted: a cached block with no block below it in the pool. So children go before parents, whatever
  their scores, and a parent is judged once its last child is gone;
- each class keeps its leaves in a heap by time of release (tail before head), and so for each eviction group. Only
  the oldest of each class is a candidate: within a class it is the least promising, or nearly so;
- entries of a heap are never removed from its middle: an entry counts only while its block is a leaf with that very
  order number. Stale ones are skipped when they come up, and swept out when they are the greater part;
- a block that is evicted leaves its history behind under its digest, so that the model sees late reuses and a block
  that comes back is not taken for new. At least ``HISTORY`` digests are remembered, or four capacities.

Cost: a few array operations a table, and O(log n) for each leaf that comes or goes.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np

from .ids import Ids
from .lru_shadow import LruShadow
from .reuse_model import CLASSES, GAP_EDGES_S, OUTPUT_EDGES, REUSE_EDGES, SHAPE, ReuseModel

HISTORY, HISTORY_CAPACITIES = 65_536, 4
NO_PARENT = -1
NOT_REUSED_S = -1.0
BLOCK_BITS = 32  # an entry is (order << BLOCK_BITS) + block


class Past(NamedTuple):
    """What is remembered of an evicted block."""

    reused: int
    released: float
    name: int
    group: int


class DensityPolicy:
    """Eviction by learned hit density, guarded by a shadow of LRU."""

    def __init__(self, capacity: int) -> None:
        self.now = 0.0
        self.model = ReuseModel()
        self.shadow = LruShadow(capacity)
        self._count = self._order = self._output = 0
        self.groups: Ids = np.zeros(capacity, np.int64)
        self._heaps: defaultdict[int, list[list[int]]] = defaultdict(lambda: [[] for _ in range(CLASSES)])
        self._past: OrderedDict[bytes, Past] = OrderedDict()
        self._history = max(HISTORY, HISTORY_CAPACITIES * capacity)
        # By block. Times in seconds; gap is NOT_REUSED_S until the first reuse.
        self._cached = np.zeros(capacity, np.bool_)
        self._released, self._gap = np.zeros(capacity), np.full(capacity, NOT_REUSED_S)
        self._reused, self._class = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._group, self._orders = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._digest: list[bytes | None] = [None] * capacity
        self._parent, self._children = [NO_PARENT] * capacity, [0] * capacity

    def __len__(self) -> int:
        return self._count

    def cached(self) -> list[int]:
        """Cached blocks, least recently released first."""
        blocks = np.flatnonzero(self._cached)
        oldest: list[int] = blocks[np.argsort(self._orders[blocks])].tolist()
        return oldest

    def arrived(self, digests: Sequence[bytes], hits: int) -> None:
        """Let the shadow compare."""
        self.shadow.compare(digests, hits)

    def sealed(self, block: int, digest: bytes, parent: int | None) -> None:
        """Give the block the history of its digest, if there is one."""
        self._digest[block], self._parent[block], self._children[block] = digest, NO_PARENT, 0
        if parent is not None:
            self._parent[block] = parent
            self._children[parent] += 1
        self._reused[block], self._gap[block] = 0, NOT_REUSED_S
        past = self._past.pop(digest, None)
        if past is not None:
            self._recall(block, past)

    def _recall(self, block: int, past: Past) -> None:
        """A block that was evicted is back: its wait ended now."""
        gap = self.now - past.released
        self.model.end(np.array([past.group]), np.array([past.name]), np.array([gap]))
        self._reused[block], self._gap[block] = past.reused + 1, gap

    def sealed_chain(self, blocks: list[int], digests: list[bytes], parent: int | None) -> None:
        """As ``sealed``, one after the other; what has no history costs little."""
        if parent is not None:
            self._children[parent] += 1
        named, below, children = self._digest, self._parent, self._children
        above = NO_PARENT if parent is None else parent
        for block, digest in zip(blocks, digests, strict=True):
            named[block], below[block], children[block] = digest, above, 1
            above = block
        children[above] = 0
        ids = np.array(blocks, np.int64)
        self._reused[ids], self._gap[ids] = 0, NOT_REUSED_S
        for block, digest in [pair for pair in zip(blocks, digests, strict=True) if pair[1] in self._past]:
            self._recall(block, self._past.pop(digest))

    def anchored(self, block: int) -> None:
        """Its parent has a child less."""
        self._leave_parent(block)

    def served(self, blocks: Ids, output_tokens: int) -> None:
        """Keep the shadow's order, and the output's length for the blocks released next."""
        named = self._digest
        self.shadow.use([digest for block in blocks.tolist() if (digest := named[block]) is not None])
        self._output = output_tokens

    def released(self, blocks: Ids) -> None:
        """Begin the waits of one table's blocks."""
        steps = np.zeros((len(SHAPE), len(blocks)), np.int64)
        steps[0] = np.searchsorted(REUSE_EDGES, self._reused[blocks], side="right")
        steps[1, 0] = 1
        steps[2] = np.searchsorted(GAP_EDGES_S, self._gap[blocks], side="right")
        steps[3] = np.searchsorted(OUTPUT_EDGES, self._output, side="right")
        self._class[blocks] = classes = np.asarray(np.ravel_multi_index(tuple(steps), SHAPE), np.int64)
        self._group[blocks] = self.model.begin(classes, self.now)
        self._released[blocks], self._cached[blocks] = self.now, True
        self._orders[blocks] = np.arange(self._order, self._order + len(blocks))
        self._order += len(blocks)
        self._count += len(blocks)
        children = self._children
        for leaf in [block for block in blocks.tolist() if not children[block]]:
            self._push(leaf)

    def touched(self, blocks: Ids) -> None:
        """They are behind what hangs below them in the order of release, too; what is known of their waits stays."""
        self._orders[blocks] = np.arange(self._order, self._order + len(blocks))
        self._order += len(blocks)
        for leaf in [block for block in blocks.tolist() if self._is_leaf(block)]:
            self._push(leaf)

    def retained(self, blocks: Ids) -> None:
        """The waits of cached blocks end with a hit."""
        if not self._cached[blocks].all():
            raise KeyError("a free block cannot be shared")
        gaps = self.now - self._released[blocks]
        self.model.end(self._group[blocks], self._class[blocks], gaps)
        self._gap[blocks], self._cached[blocks] = gaps, False
        self._reused[blocks] += 1
        self._count -= len(blocks)

    def victims(self, count: int, group: int = 0) -> list[int]:
        """Leaves of the lowest density, each taken before its parent is judged."""
        assert count <= self._count, "more than is cached"
        heaps = self._heaps[group]
        candidates: list[tuple[float, int, int]] = []
        for name in range(CLASSES):
            self._propose(candidates, heaps[name], name)
        chosen: list[int] = []
        while len(chosen) < count and candidates:
            _, entry, name = heappop(candidates)
            heap = heaps[name]
            if not heap or heap[0] != entry:
                continue  # an older leaf of this class came up since; it was proposed
            heappop(heap)
            block = entry & ((1 << BLOCK_BITS) - 1)
            parent = self._parent[block]
            self._forget(block)
            chosen.append(block)
            self._propose(candidates, heap, name)
            if parent != NO_PARENT and self._is_leaf(parent) and (above := int(self._class[parent])) != name:
                self._propose(candidates, heaps[above], above)
        if len(chosen) < count:
            # A held block may outlive the references of its parent: then a cached block is no leaf, and goes last.
            rest = [block for block in self.cached() if self.groups[block] == group]
            chosen += rest[: count - len(chosen)]
        return chosen

    def regroup(self) -> None:
        """Each leaf to the heaps of its group."""
        entries = [entry for heaps in self._heaps.values() for heap in heaps for entry in heap]
        self._heaps.clear()
        for entry in set(entries):
            if self._counts(entry):
                self._push(entry & ((1 << BLOCK_BITS) - 1))

    def dropped(self, blocks: Ids) -> None:
        """Forget those that were not chosen as victims, children and parents in any order."""
        named = self._digest
        for block in [block for block in blocks.tolist() if named[block] is not None]:
            self._forget(block)

    def _forget(self, block: int) -> None:
        """Remember its past under its digest; its parent may become a leaf."""
        digest = self._digest[block]
        assert digest is not None, "a cached block has a name"
        if self._cached[block]:
            self._cached[block] = False
            self._count -= 1
            self._remember(digest, block)
        self._digest[block] = None
        self._leave_parent(block)

    def _leave_parent(self, block: int) -> None:
        parent, self._parent[block] = self._parent[block], NO_PARENT
        if parent != NO_PARENT and self._digest[parent] is not None:
            self._children[parent] -= 1
            if self._is_leaf(parent):
                self._push(parent)

    def _remember(self, digest: bytes, block: int) -> None:
        self._past[digest] = Past(
            int(self._reused[block]), float(self._released[block]), int(self._class[block]), int(self._group[block])
        )
        if len(self._past) > self._history:
            _, oldest = self._past.popitem(last=False)
            self.model.lose(oldest.group)

    def _is_leaf(self, block: int) -> bool:
        return bool(self._cached[block]) and not self._children[block]

    def _push(self, block: int) -> None:
        heap = self._heaps[int(self.groups[block])][int(self._class[block])]
        heappush(heap, (int(self._orders[block]) << BLOCK_BITS) + block)
        if len(heap) > 2 * self._count + 64:
            heap[:] = {entry for entry in heap if self._counts(entry)}
            heapify(heap)

    def _counts(self, entry: int) -> bool:
        block = entry & ((1 << BLOCK_BITS) - 1)
        return self._is_leaf(block) and int(self._orders[block]) == entry >> BLOCK_BITS

    def _propose(self, candidates: list[tuple[float, int, int]], heap: list[int], name: int) -> None:
        """Make the oldest leaf of a class a candidate; ``heap`` is that of the class ``name``."""
        while heap and not self._counts(heap[0]):
            heappop(heap)
        if heap:
            block = heap[0] & ((1 << BLOCK_BITS) - 1)
            score = 0.0
            if not self.shadow.behind:
                score = self.model.scores[name][self.model.step(self.now - float(self._released[block]))]
            heappush(candidates, (score, heap[0], name))
