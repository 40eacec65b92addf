"""The block pool: states, order of the free list, LRU, quarantine."""

from __future__ import annotations

import numpy as np
import pytest

from quire_kvstore.blocks.pool import CACHED, FREE, HELD, QUARANTINED, BlockPool


def ids(*blocks: int) -> np.ndarray:
    return np.array(blocks, np.int64)


def test_fresh_blocks_are_one_ascending_run() -> None:
    """Blocks come off a fresh pool in ascending runs, also over several takes."""
    pool = BlockPool(8)

    assert pool.allocate(3).tolist() == [0, 1, 2]
    assert pool.allocate(2).tolist() == [3, 4]


def test_a_freed_table_comes_back_as_a_run() -> None:
    """What is released together in reverse order is handed out again ascending."""
    pool = BlockPool(8)
    table = pool.allocate(6)
    pool.release(table[::-1])

    assert pool.allocate(4).tolist() == [0, 1, 2, 3]


def test_each_block_is_in_one_state() -> None:
    """Free, held, cached and quarantined are told apart and add up."""
    pool = BlockPool(4)
    pool.allocate(3)
    pool.sealed[0] = True
    pool.release(ids(0))
    pool.quarantine(ids(1))

    assert pool.states().tolist() == [CACHED, QUARANTINED, HELD, FREE]
    assert pool.counts() == {"total": 4, "free": 1, "held": 1, "cached": 1, "quarantined": 1}


def test_a_shared_block_in_quarantine_is_still_held() -> None:
    """A block is quarantined only when no reference outside the fenced sessions is left."""
    pool = BlockPool(1)
    block = pool.allocate(1)
    pool.retain(block)
    pool.quarantine(block)

    assert pool.counts()["held"] == 1
    pool.release(block)
    assert pool.counts()["quarantined"] == 1
    pool.release(block, quarantined=True)
    assert pool.counts()["free"] == 1


def test_the_least_recently_released_is_evicted_first() -> None:
    """Eviction follows the order of release; a hit in between moves a block to the end."""
    pool = BlockPool(3)
    pool.sealed[pool.allocate(3)] = True
    pool.release(ids(2, 1, 0))
    pool.retain(ids(2))
    pool.release(ids(2))

    assert pool.victims(2) == [1, 0]
    pool.unseal(ids(1, 0))
    assert pool.allocate(2).tolist() == [0, 1]
    assert not pool.sealed[:2].any()
    assert pool.cached_ids() == [2]


def test_available_leaves_out_what_the_same_request_will_pin() -> None:
    """Cached blocks that are about to be shared cannot also be evicted for the same sequence."""
    pool = BlockPool(3)
    pool.sealed[pool.allocate(2)] = True
    pool.release(ids(1, 0))

    assert pool.available() == 3
    assert pool.available(ids(0)) == 2


def test_a_reference_is_given_back_once() -> None:
    """A second release of the same reference trips an assertion instead of freeing a block in use."""
    pool = BlockPool(2)
    block = pool.allocate(1)
    pool.release(block)

    with pytest.raises(AssertionError, match="twice"):
        pool.release(block)


def test_a_free_block_cannot_be_shared() -> None:
    """Retaining a free block is a bug and is noticed."""
    with pytest.raises(KeyError):
        BlockPool(2).retain(ids(1))
