"""The shadow of LRU."""

from __future__ import annotations

import random
from collections import OrderedDict

from quire_kvstore.blocks.lru_shadow import LruShadow


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


def test_its_lists_say_what_an_ordered_dict_would_say() -> None:
    """Long and short uses, repeated, overlapping and larger than the capacity: the same names, and no long tail."""
    chance = random.Random(7)
    for capacity in (1, 5, 40):
        shadow, order = LruShadow(capacity), OrderedDict[bytes, None]()
        for _ in range(2000):
            start, length = chance.randrange(60), chance.choice((1, 2, 3, 20, 60))
            used = names(*range(start + length - 1, start - 1, -1))
            for _ in range(chance.choice((1, 1, 3))):
                shadow.use(used)
            for name in used:
                order.pop(name, None)
                order[name] = None
            while len(order) > capacity:
                order.popitem(last=False)
            assert shadow._used.keys() == order.keys()
            assert shadow._listed <= 4 * capacity + 2 * len(used)


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
