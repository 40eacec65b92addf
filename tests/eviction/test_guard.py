"""The shadow of LRU."""

from __future__ import annotations

from quire_kvstore.eviction_guard import LruShadow


def names(*numbers: int) -> list[bytes]:
    """Digests, for the tests' purposes."""
    return [bytes([number]) for number in numbers]


def test_it_holds_what_lru_would_hold() -> None:
    """Of six blocks used, tails first, three are left: the last table whole, and no other's tail."""
    shadow = LruShadow(3)
    shadow.use(names(3, 2, 1))
    shadow.use(names(5, 4))
    assert len(shadow) == 3

    shadow.compare(names(1, 2, 3), hits=1)
    shadow.compare(names(4, 5), hits=2)
    assert not shadow.behind
    assert shadow._lead == 0


def test_a_policy_that_misses_what_lru_hits_falls_behind_and_may_catch_up() -> None:
    """Behind at the first lost chain, no longer once as much was gained."""
    shadow = LruShadow(100)
    shadow.use(names(*range(50)))
    shadow.compare(names(*range(49, -1, -1)), hits=0)
    assert shadow.behind

    shadow.compare(names(*range(100, 160)), hits=60)
    assert not shadow.behind


def test_a_few_blocks_decide_nothing() -> None:
    """One block lost in a capacity of a thousand is within the slack."""
    shadow = LruShadow(1000)
    shadow.use(names(1))
    shadow.compare(names(1), hits=0)

    assert not shadow.behind
