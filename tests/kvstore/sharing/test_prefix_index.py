"""The prefix index: longest hit along a chain."""

from __future__ import annotations

import pytest

from quire_kvstore.sharing.prefix_index import Entry, PrefixIndex
from quire_proto.wire.digests import ROOT_PARENT, chain, split


def digests(count: int, key: bytes = b"k") -> list[bytes]:
    return split(chain(key, list(range(count)), 1))


def filled(names: list[bytes]) -> PrefixIndex:
    index = PrefixIndex()
    parent = ROOT_PARENT
    for block, digest in enumerate(names):
        index.add(Entry(block, digest, parent))
        parent = digest
    return index


@pytest.mark.parametrize("known", [0, 1, 2, 7, 16])
def test_the_longest_prefix_is_found(known: int) -> None:
    """The binary search gives as many blocks as are indexed, wherever the chain ends."""
    names = digests(16)

    assert list(range(known)) == filled(names[:known]).longest(names, 0, 16)


def test_a_hit_may_begin_in_the_middle_of_the_chain() -> None:
    """From ``start`` on the run hangs on the digest before it."""
    names = digests(6)

    assert filled(names).longest(names, 2, 4) == [2, 3]


def test_no_key_hits_another_key() -> None:
    """The same tokens under another key are another chain: nothing is found."""
    assert filled(digests(4, b"tenant-a")).longest(digests(4, b"tenant-b"), 0, 4) == []


def test_a_digest_under_another_parent_is_not_reached() -> None:
    """A chain that was made up of true digests in the wrong order ends where the links break."""
    names = digests(3)

    assert filled(names).longest([names[0], names[2], names[1]], 0, 3) == [0]
    assert filled(names).longest([names[0], names[0]], 0, 2) == [0]


def test_an_evicted_block_is_forgotten() -> None:
    """Removing the tail shortens the hit."""
    names = digests(3)
    index = filled(names)

    assert index.remove([2]) == [2]

    assert index.longest(names, 0, 3) == [0, 1]
    assert index.find(names[2]) is None
    assert index.of_block(2) is None


def test_nothing_stays_below_a_removed_block() -> None:
    """Whatever hangs below an evicted block loses its name with it; what is anchored at a publication does not."""
    names = digests(5)
    index = filled(names)
    index.anchor(3, "p")

    assert index.remove([1]) == [1, 2]

    assert index.longest(names, 0, 5) == [0]
    assert index.longest(names, 3, 5) == [3, 4]


def test_a_ring_ends_where_it_closes() -> None:
    """Entries anchored at publications may be made to name each other: no block is found twice."""
    one, two = digests(2)
    index = PrefixIndex()
    index.add(Entry(0, two, one, anchor="p"))
    index.add(Entry(1, one, two))

    assert index.longest([one, two, one, two], 1, 4) == [0, 1]
