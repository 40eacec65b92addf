"""The density policy on tables told by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quire_kvstore.blocks.density_policy import DensityPolicy


class Tables:
    """A policy, and blocks that are sealed, released and hit as a store would."""

    def __init__(self, capacity: int = 16) -> None:
        self.policy = DensityPolicy(capacity)

    def serve(self, blocks: Sequence[int], output: int = 0, at: float | None = None, known: int = 0) -> None:
        """A sequence with this chain of blocks, the first ``known`` of them found in the cache."""
        if at is not None:
            self.policy.now = at
        if known:
            self.policy.retained(np.array(blocks[:known], np.int64))
        for index in range(known, len(blocks)):
            self.policy.sealed(blocks[index], bytes([blocks[index]]), blocks[index - 1] if index else None)
        tail_first = list(blocks)[::-1]
        self.policy.served(np.array(tail_first, np.int64), output)
        self.policy.released(np.array(tail_first, np.int64))

    def evict(self, count: int) -> list[int]:
        """Evict, as the store does."""
        victims = self.policy.victims(count)
        self.policy.dropped(np.array(victims, np.int64))
        return victims


def test_without_experience_it_evicts_as_lru_does() -> None:
    """The oldest table first, tail before head."""
    tables = Tables()
    tables.serve([0, 1, 2], at=0.0)
    tables.serve([3, 4], at=60.0)

    assert tables.evict(4) == [2, 1, 0, 4]


def test_a_parent_waits_for_its_last_child() -> None:
    """Two tables with one head: it goes after both tails."""
    tables = Tables()
    tables.serve([0, 1, 2], at=0.0)
    tables.serve([0, 3], at=1.0, known=1)

    victims = tables.evict(4)
    assert sorted(victims) == [0, 1, 2, 3]
    assert victims[-1] == 0


def test_what_comes_back_stays_longer_than_what_never_does() -> None:
    """Short outputs are followed up within seconds, long ones never: of equal age the long one's blocks go first."""
    tables = Tables(64)
    for turn in range(300):
        now = 20.0 * turn
        tables.serve([0, 1], output=5, at=now, known=2 if turn else 0)
        tables.serve([2 + turn % 60], output=1000, at=now)
        if turn >= 50:
            tables.evict(len(tables.policy) - 12)
        tables.policy.now = now + 2
    assert 0 in tables.policy.cached()
    assert 1 in tables.policy.cached()


def test_a_chain_sealed_at_once_is_one_sealed_block_by_block() -> None:
    """Histories, children and parents are the same, below a block that has other children too."""

    def told(at_once: bool) -> list[object]:
        tables = Tables()
        tables.serve([0, 1, 2], at=0.0)
        tables.serve([3, 4], at=5.0)
        tables.evict(3)
        policy, blocks, digests = tables.policy, [8, 5, 7], [bytes([2]), bytes([90]), bytes([91])]
        policy.now = 60.0
        if at_once:
            policy.sealed_chain(blocks, digests, 3)
        else:
            for block, digest, parent in zip(blocks, digests, [3, 8, 5], strict=True):
                policy.sealed(block, digest, parent)
        arrays = (policy._reused, policy._gap, policy.model._ended)
        return [policy._digest, policy._parent, policy._children, policy._past, *(a.tolist() for a in arrays)]

    assert told(at_once=True) == told(at_once=False)


def test_an_evicted_block_that_returns_is_not_new() -> None:
    """Its reuse count and its gap are those of its digest, eviction or not."""
    tables = Tables()
    tables.serve([0], at=0.0)
    assert tables.evict(1) == [0]
    tables.policy.now = 50.0
    tables.policy.sealed(7, bytes([0]), None)

    assert (int(tables.policy._reused[7]), float(tables.policy._gap[7])) == (1, 50.0)


def test_history_is_bounded_and_its_waits_are_given_up() -> None:
    """The oldest digests are forgotten first, and the model stops following them."""
    tables = Tables()
    tables.policy._history = 2
    for block in range(5):
        tables.serve([block], at=float(block))
    tables.evict(5)

    assert list(tables.policy._past) == [bytes([3]), bytes([4])]
    assert int(tables.policy.model._left.sum()) == 2


def test_a_cached_parent_of_a_held_child_goes_last() -> None:
    """It is no leaf, but when nothing else is left it is named all the same."""
    tables = Tables()
    tables.policy.sealed(0, b"parent", None)
    tables.policy.sealed(1, b"child", 0)
    tables.policy.released(np.array([0]))
    tables.serve([2], at=1.0)

    victims = tables.policy.victims(2)
    assert victims == [2, 0]
    tables.policy.dropped(np.array([2, 0, 1]))
    assert len(tables.policy) == 0


def test_behind_lru_it_evicts_as_lru_does() -> None:
    """Whatever the scores say, the least recently released leaf goes."""
    tables = Tables()
    tables.serve([0], at=0.0)
    tables.serve([1], at=500.0)
    tables.policy.model.scores = [[-float(step) for step in row] for row in tables.policy.model.scores]
    tables.policy.shadow.behind = True

    assert tables.evict(1) == [0]
