"""Eviction: which cached block goes first when space is needed. What a policy learns, and the simplest one.

A policy owns the set of cached blocks (no references, sealed) and their order of eviction. It never owns ids, counts
or names: the pool and the index do, and they tell it what happens. It reads no clock: the store's caller sets
``now``.

Invariants every policy keeps:
- ``len(policy)`` is the number of cached blocks;
- :meth:`EvictionPolicy.victims` names a block only after every cached block below it in the prefix tree. A released
  table comes in tail first, so the order of insertion is such an order; where a block was released before those below
  it (``ops/left_behind``), :meth:`EvictionPolicy.touched` makes it one again. Until then what is evicted takes along
  what is below it.

Blocks are in *eviction groups*, each with an order of its own: a tenant with a quota is one, all others together
is group 0. Which group loses how much is for ``quotas`` to say. Chains do not cross groups, for each tenant has its
own digests.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol

import numpy as np

from .ids import Ids


class EvictionPolicy(Protocol):
    """What the pool and the store tell a policy, and what they ask of it.

    Attributes:
        now: time of the operation being executed, in seconds of a monotonic clock.
        groups: eviction group of each block, or empty where all are in group 0. Kept by the charges; that of a cached
            block changes only together with :meth:`regroup`.
    """

    now: float
    groups: Ids

    def __len__(self) -> int:
        """Number of cached blocks."""

    def cached(self) -> list[int]:
        """All cached blocks; in order of eviction where the policy has one."""

    def arrived(self, digests: Sequence[bytes], hits: int) -> None:
        """A request asked for a chain of digests; its first ``hits`` blocks were found."""

    def sealed(self, block: int, digest: bytes, parent: int | None) -> None:
        """A held block got its name, below ``parent`` in the prefix tree (None: at a root)."""

    def sealed_chain(self, blocks: list[int], digests: list[bytes], parent: int | None) -> None:
        """Held blocks got their names, the first below ``parent``, each other below the one before."""

    def anchored(self, block: int) -> None:
        """A named block hangs below a publication from now on, no longer below another block."""

    def served(self, blocks: Ids, output_tokens: int) -> None:
        """A sequence is about to release ``blocks``, tail first; it generated so many tokens."""

    def released(self, blocks: Ids) -> None:
        """Sealed blocks lost their last reference and are cached now; children before parents."""

    def touched(self, blocks: Ids) -> None:
        """Cached blocks, children before parents, go behind blocks that are below them and were released after them."""

    def retained(self, blocks: Ids) -> None:
        """Cached blocks were hit and are held again."""

    def victims(self, count: int, group: int = 0) -> list[int]:
        """The next ``count`` cached blocks of a group to evict, in order; the caller drops them at once."""

    def regroup(self) -> None:
        """The groups of cached blocks have changed."""

    def dropped(self, blocks: Ids) -> None:
        """Blocks, cached or held, lost their names: victims, and whatever hung below them."""


class LruPolicy:
    """Least recently used first, tail before head."""

    def __init__(self) -> None:
        self.now = 0.0
        self.groups: Ids = np.empty(0, np.int64)
        self._count = 0
        self._orders: defaultdict[int, OrderedDict[int, None]] = defaultdict(OrderedDict)

    def __len__(self) -> int:
        return self._count

    def cached(self) -> list[int]:
        """Cached blocks, the next to be evicted first, group by group."""
        return [block for order in self._orders.values() for block in order]

    def arrived(self, digests: Sequence[bytes], hits: int) -> None:
        """Recency needs no names."""

    def sealed(self, block: int, digest: bytes, parent: int | None) -> None:
        """Recency needs no names."""

    def sealed_chain(self, blocks: list[int], digests: list[bytes], parent: int | None) -> None:
        """Recency needs no names."""

    def anchored(self, block: int) -> None:
        """Recency needs no tree."""

    def served(self, blocks: Ids, output_tokens: int) -> None:
        """Recency needs no lengths."""

    def released(self, blocks: Ids) -> None:
        """Most recently used now, in this order."""
        self._count += len(blocks)
        for order, those in self._places(blocks):
            order.update(dict.fromkeys(those))

    def touched(self, blocks: Ids) -> None:
        """As if released now, in this order."""
        for order, those in self._places(blocks):
            for block in those:
                order.move_to_end(block)

    def retained(self, blocks: Ids) -> None:
        """Not evictable while held."""
        self._count -= len(blocks)
        for order, those in self._places(blocks):
            for block in those:
                del order[block]  # KeyError: a free block cannot be shared

    def victims(self, count: int, group: int = 0) -> list[int]:
        """The ``count`` least recently used blocks of a group."""
        assert count <= self._count, "more than is cached"
        return list(islice(self._orders[group], count))

    def dropped(self, blocks: Ids) -> None:
        """Forget them."""
        for order, those in self._places(blocks):
            before = len(order)
            for block in those:
                order.pop(block, None)
            self._count -= before - len(order)

    def regroup(self) -> None:
        """Each block to its group, in the order in which they stood."""
        blocks = self.cached()
        self._orders.clear()
        self._count = 0
        self.released(np.array(blocks, np.int64))

    def _places(self, blocks: Ids) -> Iterable[tuple[OrderedDict[int, None], list[int]]]:
        """Each order that some of the blocks stand in, and those, in the order given."""
        if not len(blocks):
            return
        if not len(self.groups):
            yield self._orders[0], blocks.tolist()
            return
        groups = self.groups[blocks]
        first = int(groups[0])
        if bool((groups == first).all()):  # a table is one account's
            yield self._orders[first], blocks.tolist()
            return
        for group in np.unique(groups).tolist():
            yield self._orders[group], blocks[groups == group].tolist()
