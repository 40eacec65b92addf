"""Allocate, extend, fork with copy-on-write, free: one store, checked content."""

from __future__ import annotations

import pytest

from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32
from tests.support.driver import Driver

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_allocate_reserves_and_computes_nothing_at_first(driver: Driver) -> None:
    """An empty cache gives blocks for the tokens and no hit; ``reserve`` asks for more."""
    session = driver.attach()

    reply = driver.allocate(session, 1, PROMPT, reserve=17)

    assert (reply.code, reply.computed, list(unpack_u32(reply.blocks))) == (m.OK, 0, [0, 1, 2, 3, 4])


def test_a_sealed_prefix_is_a_hit_for_the_tenant_only(driver: Driver) -> None:
    """The same prompt hits all full blocks of its tenant's and none of another's."""
    session, other = driver.attach(), driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.seal(session, 1)

    assert driver.allocate(other, 1, PROMPT).computed == 8
    assert driver.allocate(other, 2, PROMPT, tenant="b").computed == 0
    driver.check()


def test_at_least_one_token_is_left_to_compute(driver: Driver) -> None:
    """A prompt that ends with a block edge and is wholly cached computes one token, in a copy of its last block."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT[:8])
    driver.write(session, 1, 8)
    driver.seal(session, 1)
    sealed = list(driver.branch(session, 1).table)
    driver.free(session, 1)

    reply = driver.allocate(session, 2, PROMPT[:8])

    own = unpack_u32(reply.blocks)[1]
    assert (reply.computed, list(unpack_u32(reply.blocks))) == (7, [sealed[0], own])
    assert [row[1:] for row in unpack_rows(reply.copies, 4)] == [(sealed[1], own, 3)]
    assert driver.write(session, 2, 8) == m.OK
    assert list(unpack_rows(driver.seal(session, 2).canonical, 2)) == [(1, sealed[1])]
    assert (driver.store.counters.duplicates, driver.counts()["held"]) == (0, 2), "swapped: nothing is there twice"
    driver.check()


def test_without_room_for_the_source_of_a_copy_the_last_block_is_computed(driver: Driver) -> None:
    """Eight blocks are all of the pool and wholly cached: the same prompt again gets its table all the same."""
    session, prompt = driver.attach(), [1] * (driver.store.state.pool.size * 4)
    driver.allocate(session, 1, prompt)
    driver.write(session, 1, len(prompt))
    driver.seal(session, 1)
    driver.free(session, 1)

    reply = driver.allocate(session, 2, prompt)

    assert (reply.code, reply.computed, reply.copies) == (m.OK, len(prompt) - 4, b"")
    driver.check()


def test_freed_blocks_stay_as_cache_and_are_evicted_tail_first(driver: Driver) -> None:
    """After free the sealed blocks are cached; when space is short the chain loses its tail, not its head."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.seal(session, 1)
    driver.free(session, 1)
    assert driver.counts()["cached"] == 2

    driver.allocate(session, 2, [1] * 60, tenant="b")
    driver.free(session, 2)

    assert driver.store.counters.evictions == 1
    assert driver.allocate(session, 3, PROMPT).computed == 4
    driver.check()


def test_no_space_changes_nothing(driver: Driver) -> None:
    """Allocate and extend without space say how much is missing and leave every count and table alone."""
    session = driver.attach()
    driver.allocate(session, 1, [1] * 48)
    before = driver.counts(), session.sequences[1].table.tolist()

    no = driver.store.allocate(session, m.Allocate(2, "a", 20))
    more = driver.extend(session, 1, 72)

    assert (no.code, no.missing, no.scope) == (m.NO_SPACE, 1, "pool")
    assert no.retry_after_ms > 0
    assert (more.code, more.missing, more.scope) == (m.NO_SPACE, 2, "pool")
    assert before == (driver.counts(), session.sequences[1].table.tolist())
    assert 2 not in session.sequences


def test_a_hit_cannot_also_be_evicted_for_the_same_request() -> None:
    """Cached blocks that the request shares do not count as space: it is told what is missing."""
    driver = Driver(blocks=4)
    session = driver.attach()
    driver.allocate(session, 1, PROMPT[:8])
    driver.write(session, 1, 8)
    driver.seal(session, 1)
    driver.free(session, 1)

    reply = driver.allocate(session, 2, PROMPT[:9], reserve=20)

    assert (reply.code, reply.missing) == (m.NO_SPACE, 1)
    assert driver.counts()["cached"] == 2
    driver.check()


def test_extend_within_the_capacity_costs_nothing(driver: Driver) -> None:
    """Asking for slots one may already write gives no block and no copy."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)

    assert m.Extended(m.OK, first=3) == driver.extend(session, 1, 12)


def test_a_child_copies_the_shared_tail_before_it_writes(driver: Driver) -> None:
    """The child gets a new block and a copy of the slots below the fork point; the parent's bytes stay."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.fork(session, 1, 2, 10)
    assert driver.counts()["held"] == 3

    reply = driver.extend(session, 2, 11)
    tail = driver.branch(session, 1).table[2]

    [(_, src, dst, slots)] = unpack_rows(reply.copies, 4)
    assert (tail, 2) == (src, slots)
    assert (2, [dst]) == (reply.first, list(unpack_u32(reply.blocks)))
    driver.write(session, 2, 11, token=99)
    driver.write(session, 1, 11, token=77)
    driver.check()


def test_the_source_of_a_copy_stays_pinned_until_acknowledged(driver: Driver) -> None:
    """The parent may go at once; the block goes when the copy is acknowledged."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.fork(session, 1, 2, 10)
    driver.extend(session, 2, 11)
    driver.free(session, 1)
    assert driver.counts()["held"] == 4
    driver.check()

    driver.write(session, 2, 11)

    assert driver.acknowledge(session, 2) == [m.OK]
    assert driver.counts()["held"] == 3
    assert bytes([m.NO_SUCH]) == driver.store.step(session, m.Step(copies_done=pack_u32([1]))).copies_done


def test_a_freed_child_lets_go_of_its_copy(driver: Driver) -> None:
    """Freeing a sequence unpins the sources of copies it never acknowledged."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.fork(session, 1, 2, 10)
    driver.extend(session, 2, 11)

    driver.free(session, 1, 2)

    assert driver.counts()["free"] == 16
    driver.check()


def test_the_sole_survivor_appends_in_place(driver: Driver) -> None:
    """When the parent was freed first, its only child takes the unfull block over without a copy."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.fork(session, 1, 2, 9)
    driver.free(session, 1)

    reply = driver.extend(session, 2, 12)

    assert (reply.code, reply.blocks, reply.copies) == (m.OK, b"", b"")
    driver.write(session, 2, 12, token=99)
    driver.check()


def test_two_children_of_a_freed_parent_do_not_share_a_writer(driver: Driver) -> None:
    """Without the parent the first child to write copies, and the second then survives alone."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.fork(session, 1, 2, 10)
    driver.fork(session, 1, 3, 9)
    driver.free(session, 1)

    assert len(unpack_rows(driver.extend(session, 2, 12).copies, 4)) == 1
    driver.write(session, 2, 12, token=20)
    driver.acknowledge(session, 2)
    assert driver.extend(session, 3, 12).copies == b""
    driver.write(session, 3, 12, token=30)
    driver.check()


def test_a_fork_inside_a_sealed_block_copies_it(driver: Driver) -> None:
    """A sealed block is never written in place, not even by the only sequence that holds it."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT[:8])
    driver.write(session, 1, 8)
    driver.seal(session, 1)
    driver.fork(session, 1, 2, 6)
    driver.free(session, 1)

    assert len(unpack_rows(driver.extend(session, 2, 8).copies, 4)) == 1
    driver.write(session, 2, 8, token=40)
    driver.acknowledge(session, 2)
    driver.check()
    assert driver.counts()["cached"] == 1


def test_a_child_without_space_waits_and_stays_valid(driver: Driver) -> None:
    """No space for the copy leaves child and parent as they were."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT, reserve=64)
    driver.write(session, 1, 10)
    driver.fork(session, 1, 2, 10)

    assert (driver.extend(session, 2, 11).code, driver.store.counters.no_space) == (m.NO_SPACE, 1)
    driver.check()


def test_a_fill_outside_the_own_slots_is_a_conflict(driver: Driver) -> None:
    """Fill marks never fall, never pass the capacity, and a child has none to raise before it extends."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)
    driver.fork(session, 1, 2, 10)

    reply = driver.store.step(session, m.Step(fills=pack_u32((1, 9, 1, 13, 2, 11, 7, 1, 1, 12))))

    assert list(reply.fills) == [m.CONFLICT, m.CONFLICT, m.CONFLICT, m.NO_SUCH, m.OK]


@pytest.mark.parametrize(("at", "children"), [(11, [2]), (4, [1]), (4, [2, 2])])
def test_an_impossible_fork_is_a_conflict(driver: Driver, at: int, children: list[int]) -> None:
    """Past the fill mark, onto a living sequence, or twice the same child: refused as a whole."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)
    driver.write(session, 1, 10)

    assert driver.store.fork(session, m.Fork(1, pack_u32(children), at)).code == m.CONFLICT
    assert list(session.sequences) == [1]
    driver.check()


def test_free_answers_one_code_a_sequence(driver: Driver) -> None:
    """A double free is told, and frees nothing twice."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)

    assert driver.free(session, 1, 1) == [m.OK, m.NO_SUCH]
    assert driver.counts()["free"] == 16


def test_a_step_applies_releases_before_allocates(driver: Driver) -> None:
    """What a step gives up it can use in the same message."""
    session = driver.attach()
    driver.allocate(session, 1, [1] * 64)

    reply = driver.store.step(session, m.Step(releases=pack_u32([1]), allocates=(m.Allocate(2, "a", 64),)))

    assert (bytes([m.OK]), m.OK) == (reply.releases, reply.allocates[0].code)
    assert list(session.sequences) == [2]


def test_slots_count_a_shared_block_once(driver: Driver) -> None:
    """Filled slots are the most any sharer wrote; capacity is every block in use, extended-ahead ones included."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT, reserve=16)
    driver.write(session, 1, 10)
    driver.fork(session, 1, 2, 9)

    assert driver.store.slots() == {"filled": 10, "capacity": 16}
    driver.free(session, 1)
    assert driver.store.slots() == {"filled": 9, "capacity": 12}


@pytest.mark.parametrize(
    "item",
    [
        m.Allocate(1 << 32, "a", 4),
        m.Allocate(2, "a", 0),
        m.Allocate(2, "(public)", 4),
        m.Allocate(2, "a", 4, digests=bytes(64)),
        m.Allocate(1, "a", 4),
    ],
)
def test_an_impossible_allocate_is_a_conflict(driver: Driver, item: m.Allocate) -> None:
    """Ids past u32, no tokens, bracketed tenants, more digests than full blocks, a living id."""
    session = driver.attach()
    driver.allocate(session, 1, PROMPT)

    assert driver.store.allocate(session, item).code == m.CONFLICT
    assert list(session.sequences) == [1]
