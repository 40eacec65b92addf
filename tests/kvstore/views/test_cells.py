"""The pool as readers are shown it: cells, what has changed since, and what holds a block."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from quire_kvstore.ops.slices import finish
from quire_kvstore.sessions.session import Session
from quire_kvstore.views import cells as views
from quire_kvstore.views.cells import Cells
from quire_kvstore.views.holders import MOST_HOLDERS, block_info
from quire_proto import messages as m
from quire_proto.messages.pool_map import AskBlock, AskPoolMap, BlockHolder, BlockInfo, PoolMap
from quire_proto.wire.codec import from_map
from quire_proto.wire.u32 import unpack_u32
from tests.support.driver import Driver
from tests.support.service import BareService

BOOT = b"b" * 16
FREE, HELD, CACHED, QUARANTINED = range(4)
SEALED, CLAIMED, PUBLISHED = 4, 8, 16
PUBLIC, ANN, BOB = 1, 2, 3  # accounts in the order of their first use, plus 1


def cell(state: int, references: int = 0, account: int = 0, flags: int = 0) -> int:
    """A cell as PROTOCOL.md has it."""
    return state | flags | references << 8 | account << 16


@dataclass
class Planted:
    """A pool of 32 blocks with two engines and something of everything in it."""

    driver: Driver
    first: Session
    second: Session


@pytest.fixture
def planted() -> Planted:
    """Ann's prompt is shared by three sequences, her old one is cached, a claim is open; Bob forks a publication."""
    driver = Driver(32, 4, {"p": list(range(10))})
    first, second = driver.attach(), driver.attach()
    shared = list(range(100, 112))
    driver.allocate(first, 1, [*range(10), 9], "ann", publication="p")
    driver.write(first, 1, 11)
    driver.free(first, 1)
    driver.allocate(first, 2, [*shared, 1], "ann")
    driver.write(first, 2, 13)
    driver.seal(first, 2)
    for session, number in ((first, 3), (second, 4)):
        driver.allocate(session, number, [*shared, number], "ann")
    driver.allocate(first, 5, list(range(200, 208)), "bob")
    driver.write(first, 5, 8)
    driver.seal(first, 5)
    driver.free(first, 5)
    driver.allocate(second, 6, list(range(300, 309)), "bob", may_wait=1)
    driver.check()
    return Planted(driver, first, second)


def ask(cells: Cells, known: PoolMap | None = None) -> PoolMap:
    """What a reader that knows an answer is told."""
    body = AskPoolMap(known.boot, known.version, known.accounts) if known else AskPoolMap()
    return finish(cells.answer(body))


def test_cells_say_what_the_store_has(planted: Planted) -> None:
    """State, references, seals, claims, publications and accounts of a planted situation, block by block."""
    driver, first, second = planted.driver, planted.first, planted.second
    reply = ask(Cells(driver.store.state, BOOT))
    found = list(unpack_u32(reply.cells))

    tables = {number: driver.branch(session, number).table for session, number in ((first, 2), (first, 3), (second, 4))}
    expected = dict.fromkeys(range(32), cell(FREE))
    published = driver.store.state.publications.all()[0].table
    assert published is not None
    expected |= {block: cell(HELD, 1, PUBLIC, PUBLISHED) for block in published.tolist()}
    expected |= {block: cell(HELD, 3, ANN, SEALED) for block in tables[2][:3]}
    expected |= {table[3]: cell(HELD, 1, ANN) for table in tables.values()}
    computed = driver.branch(second, 6).table
    expected |= {block: cell(HELD, 1, BOB, CLAIMED) for block in computed[:2]} | {computed[2]: cell(HELD, 1, BOB)}
    cached = [block for block in range(32) if found[block] & 3 == CACHED]
    expected |= dict.fromkeys(cached, cell(CACHED, 0, BOB, SEALED))
    assert found == [expected[block] for block in range(32)]
    assert len(cached) == 2
    assert (reply.names, reply.accounts) == (("(public)", "ann", "bob"), 3)
    assert reply.counts | {"total": 32} == driver.counts()


def test_a_dead_engine_s_blocks_are_seen_in_quarantine_and_back(planted: Planted) -> None:
    """A fence shows what that engine alone held, a reclaim gives it back; what others share stays theirs."""
    driver, cells = planted.driver, Cells(planted.driver.store.state, BOOT)
    own = driver.branch(planted.second, 6).table
    before = ask(cells)
    driver.store.fence(planted.second, 1)
    fenced = ask(cells, before)
    kept = driver.branch(planted.second, 4).table
    changed = dict(zip(unpack_u32(fenced.blocks), unpack_u32(fenced.cells), strict=True))
    assert changed == {block: cell(QUARANTINED, 1, BOB) for block in own} | {kept[3]: cell(QUARANTINED, 1, ANN)}
    assert fenced.counts["quarantined"] == 4

    driver.gone(planted.second)
    back = ask(cells, fenced)
    assert set(unpack_u32(back.cells)) == {cell(FREE), cell(HELD, 2, ANN, SEALED)}
    assert back.counts["quarantined"] == 0


def test_changes_make_of_the_old_picture_the_new_one() -> None:
    """Whatever happens, and however far back a reader's version lies, its picture with the changes is the store's."""
    chance, driver = random.Random(5), Driver(48, 4)
    cells, session = Cells(driver.store.state, BOOT), driver.attach()
    readers = [(ask(cells), list(unpack_u32(ask(cells).cells))) for _ in range(3)]
    live = list[int]()
    for number in range(1, 120):
        if live and chance.random() < 0.45:
            driver.free(session, live.pop(chance.randrange(len(live))))
        elif driver.allocate(session, number, [number % 7] * chance.randrange(1, 20), "abc"[number % 3]).code == m.OK:
            driver.write(session, number, len(driver.branch(session, number).tokens))
            driver.seal(session, number)
            live.append(number)
        which = chance.randrange(3)
        known, picture = readers[which]
        news = ask(cells, known)
        if news.blocks:
            for block, value in zip(unpack_u32(news.blocks), unpack_u32(news.cells), strict=True):
                picture[block] = value
        elif news.cells:
            picture = list(unpack_u32(news.cells))
        assert picture == list(unpack_u32(ask(Cells(driver.store.state, BOOT)).cells))
        readers[which] = (news, picture)


def test_nothing_is_told_twice(planted: Planted) -> None:
    """Without a change there is no cell and no name; after a restart, or with a version made up, there are all."""
    cells = Cells(planted.driver.store.state, BOOT)
    known = ask(cells)
    again = ask(cells, known)

    assert (again.version, again.cells, again.blocks, again.names) == (known.version, b"", b"", ())
    for boot, version in ((b"o" * 16, known.version), (BOOT, known.version + 1), (BOOT, -1)):
        all_of_it = finish(cells.answer(AskPoolMap(boot, version)))
        assert (all_of_it.cells, all_of_it.blocks) == (known.cells, b"")


def test_a_large_pool_is_compared_in_slices(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are answered in between; two readers at once miss nothing."""
    monkeypatch.setattr(views, "SLICE", 8)
    driver, cells = planted.driver, Cells(planted.driver.store.state, BOOT)
    one, other = cells.answer(AskPoolMap()), cells.answer(AskPoolMap())
    assert [next(one), next(other), next(one)] == [False] * 3
    driver.free(planted.first, 3)
    known = finish(one)
    picture = list(unpack_u32(known.cells))
    finish(other)
    news = ask(cells, known)
    for block, value in zip(unpack_u32(news.blocks), unpack_u32(news.cells), strict=True):
        picture[block] = value
    assert picture == list(unpack_u32(ask(Cells(driver.store.state, BOOT)).cells))


def test_a_block_says_what_holds_it(planted: Planted) -> None:
    """Every sequence with its session and tenant, or the publication; of many the first, and how many more."""
    driver = planted.driver
    state, shared = driver.store.state, driver.branch(planted.first, 2).table
    rows = [("engine-1", 2), ("engine-1", 3), ("engine-2", 4)]
    holders = tuple(BlockHolder(session, "ready", number, "ann", "table", 1) for session, number in rows)
    assert finish(block_info(state, shared[1])) == BlockInfo(shared[1], "held", "ann", 3, 0, True, (), holders)

    table = state.publications.all()[0].table
    assert table is not None
    assert finish(block_info(state, int(table[0]))).publications == ("p",)
    driver.store.fence(planted.second, 1)
    own = driver.branch(planted.second, 6).table[0]
    info = finish(block_info(state, own))
    assert (info.state, info.account, info.quarantined) == ("quarantined", "(quarantine)", 1)
    assert info.holders == (BlockHolder("engine-2", "fenced", 6, "bob", "table", 0),)

    for number in range(100, 100 + MOST_HOLDERS):
        driver.fork(planted.first, 2, number, 13)
    crowd = finish(block_info(state, shared[1]))
    assert (len(crowd.holders), crowd.more) == (MOST_HOLDERS, 3)
    assert crowd.references == MOST_HOLDERS + 3


def test_copies_and_pins_are_holders() -> None:
    """The source of a copy that is not acknowledged, and a canonical block that is not swapped to."""
    driver = Driver(16, 4)
    session = driver.attach()
    driver.allocate(session, 1, [1] * 6)
    driver.write(session, 1, 6)
    driver.fork(session, 1, 2, 6)
    driver.extend(session, 2, 8)
    [(source, target, _)] = driver.branch(session, 2).undone.values()
    assert [(one.sequence, one.holds, one.place) for one in finish(block_info(driver.store.state, source)).holders] == [
        (1, "table", 1), (2, "copy", 1),
    ]  # fmt: skip
    assert target == driver.branch(session, 2).table[1]
    for number in (3, 4):
        driver.allocate(session, number, [5] * 5)
        driver.write(session, number, 5)
    driver.seal(session, 3)
    driver.seal(session, 4, swap=False)
    canonical = driver.branch(session, 3).table[0]
    assert [one.holds for one in finish(block_info(driver.store.state, canonical)).holders] == ["table", "pin"]


def test_any_peer_asks_over_the_wire() -> None:
    """Without a session; a block that is none is refused."""
    wire = BareService()
    reply = from_map(PoolMap, wire.ask("pool_map", 0, session=b"").body)
    assert (reply.boot, reply.num_blocks, len(reply.cells)) == (wire.service.boot, 32, 4 * 32)
    assert from_map(BlockInfo, wire.ask("block", 0, AskBlock(31), session=b"").body).state == "free"
    for block in (-1, 32):
        assert wire.ask("block", 0, AskBlock(block), session=b"").code == "BAD_FIELD"
