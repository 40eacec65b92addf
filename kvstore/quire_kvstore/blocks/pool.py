"""BlockPool: ids and reference counts of all blocks of one arena.

Owns which block is free, held, cached or quarantined. Knows nothing of sequences, digests, clocks or sockets.

Invariants:
- every block is in exactly one state: *free* (refcount 0, on the free stack), *cached* (refcount 0, sealed, known
  to the eviction policy), *held* (refcount > 0), *quarantined* (refcount > 0, all references those of fenced sessions);
- 0 <= quarantined references <= references.

Counts are numpy arrays updated per table, not per block. The free list is a stack of ids kept so that consecutive
ids come off together: consecutive blocks are one contiguous matrix in the arena, which attention reads without a
gather. Which cached block goes first is for the eviction policy to say; the pool tells it what comes and goes, and
enters every change of state in the charges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .charges import Charges
from .eviction import EvictionPolicy, LruPolicy
from .ids import Ids

FREE, HELD, CACHED, QUARANTINED = range(4)
STATE_NAMES = ("free", "held", "cached", "quarantined")


class BlockPool:
    """``size`` blocks, all free.

    Arrays of ids passed in must hold no block twice (a table never does): numpy would count it once.

    Attributes:
        refs: references of each block, those of fenced sessions included.
        quarantined_refs: references of fenced sessions.
        sealed: blocks whose content is final; at refcount 0 they become cached instead of free.
        free, cached: how many blocks are.
        charges: which account each block is charged to.
    """

    def __init__(self, size: int, policy: EvictionPolicy | None = None) -> None:
        assert size > 0, "a pool has blocks"
        self.size = size
        self.refs = np.zeros(size, np.int32)
        self.quarantined_refs = np.zeros(size, np.int32)
        self.sealed = np.zeros(size, np.bool_)
        self._stack: Ids = np.arange(size - 1, -1, -1, dtype=np.int64)
        self.free = size
        self.cached = 0
        self.policy: EvictionPolicy = LruPolicy() if policy is None else policy
        self.charges = Charges(size)
        self.policy.groups = self.charges.groups

    def available(self, besides: Ids | None = None) -> int:
        """Blocks that :meth:`grant` can give once the cached ones among ``besides`` are held."""
        lost = 0 if besides is None else len(besides) - int(np.count_nonzero(self.refs[besides]))
        return self.free + self.cached - lost

    def victims(self, count: int, group: int = 0) -> list[int]:
        """The ``count`` cached blocks of an eviction group to evict next; the caller unseals them at once."""
        return self.policy.victims(count, group)

    def unseal(self, ids: Ids) -> None:
        """Take the seal from blocks: cached ones become free, held ones stay held."""
        self.sealed[ids] = False
        evicted = ids[self.refs[ids] == 0]
        self.policy.dropped(ids)
        self.cached -= len(evicted)
        self.charges.evicted(evicted)
        self._push(evicted)

    def allocate(self, count: int, account: int = 0) -> Ids:
        """``count`` free blocks, ascending, with one reference each, charged to ``account``."""
        assert count <= self.free, "allocating more than is free"
        self.free -= count
        ids = np.sort(self._stack[self.free : self.free + count])
        self.refs[ids] = 1
        self.charges.granted(ids, account)
        return ids

    def retain(self, ids: Ids, count: int = 1) -> None:
        """Add ``count`` references to each block; cached ones are held again."""
        if len(ids) == 0 or count == 0:
            return
        again = ids[self.refs[ids] == 0]
        if len(again):
            self.policy.retained(again)
            self.cached -= len(again)
            self.charges.resumed(again)
        if self.charges.quarantined:
            fenced = self.quarantined_refs[ids]
            self.charges.unfenced(ids[(fenced > 0) & (fenced == self.refs[ids])])
        self.refs[ids] += count

    def release(self, ids: Ids, quarantined: bool = False) -> None:
        """Take one reference from each block; unreferenced ones become cached, in this order, or free."""
        if len(ids) == 0:
            return
        assert bool((self.refs[ids] > 0).all()), "a reference given back twice"
        self.refs[ids] -= 1
        gone = ids[self.refs[ids] == 0]
        if quarantined:
            assert bool((self.quarantined_refs[ids] > 0).all()), "not in quarantine"
            self.quarantined_refs[ids] -= 1
            self.charges.unfenced(gone)
        else:
            fenced = self.quarantined_refs[ids]
            self.charges.fenced(ids[(fenced > 0) & (fenced == self.refs[ids])])
        if len(gone) == 0:
            return
        keep = self.sealed[gone]
        if bool(keep.any()):
            self.policy.released(gone[keep])
            self.cached += int(np.count_nonzero(keep))
            self.charges.rested(gone[keep])
        self.charges.freed(gone[~keep])
        self._push(gone[~keep])

    def quarantine(self, ids: Ids) -> None:
        """Mark one reference of each block as a fenced session's."""
        if len(ids):
            self.quarantined_refs[ids] += 1
            assert bool((self.quarantined_refs[ids] <= self.refs[ids]).all()), "more fenced references than there are"
            self.charges.fenced(ids[self.quarantined_refs[ids] == self.refs[ids]])

    def counts(self) -> dict[str, int]:
        """Number of blocks in each state, and ``total``."""
        quarantined = self.charges.quarantined
        held = self.size - self.free - self.cached - quarantined
        return {
            "total": self.size,
            "free": self.free,
            "held": held,
            "cached": self.cached,
            "quarantined": quarantined,
        }

    def states(self, part: slice = slice(None)) -> NDArray[np.int8]:
        """State of each block, or of some, as one of ``FREE, HELD, CACHED, QUARANTINED``."""
        used = np.where(self.refs[part] == self.quarantined_refs[part], np.int8(QUARANTINED), np.int8(HELD))
        return np.where(self.refs[part] == 0, np.where(self.sealed[part], np.int8(CACHED), np.int8(FREE)), used)

    def free_ids(self) -> Ids:
        """The free stack, the next block to be taken last."""
        return self._stack[: self.free].copy()

    def cached_ids(self) -> list[int]:
        """Cached blocks, in the policy's order."""
        return self.policy.cached()

    def _push(self, ids: Ids) -> None:
        # Descending, so that what is freed together comes off the top as one ascending run.
        self._stack[self.free : self.free + len(ids)] = np.sort(ids)[::-1]
        self.free += len(ids)
