"""Waiting while the pool is short: owners inherit their waiters' urgency, preempted ones pass their claims on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quire_engine.scheduling.scheduler import Scheduler
from quire_proto.client.client import KVClient
from tests.support.engine_loop import words
from tests.support.engine_pair import Pair, claimant, pair
from tests.support.waits import wait_for

OLD, OWNER = words(12, 9), words(402, 2)  # one block that grows; 25 full blocks and a tail
BLOCKS = 40

pytestmark = pytest.mark.process


@contextmanager
def hoarding(two: Pair) -> Iterator[None]:
    """Another session holds all blocks that are not held yet."""
    with KVClient(two.run_dir, name="hoarder") as client:
        client.allocate(1, "hoarder", two.stats().blocks["free"] * 16)
        yield


def short_of_a_block(two: Pair, waiter: bool) -> None:
    """On the gated engine "old" decodes and "owner", less urgent, is being computed, when "old" lacks a block.

    With ``waiter`` a most urgent request waits on the other engine for what the owner computes.
    """
    two.owner.ask("old", OLD, priority=3, max_tokens=20)
    two.gate.allow(1)
    wait_for(lambda: two.owner.tokens.get(("old", 0)), "it decodes", 30)
    two.owner.ask("owner", OWNER, priority=5)
    two.gate.allow(2)
    two.wait_for_count("allocates", 2)
    if waiter:
        two.other.ask("urgent", OWNER, priority=0)
        two.aside(1)


def test_an_owner_inherits_the_urgency_of_its_waiters(tmp_path: Path) -> None:
    """The owner is less urgent than its neighbour, its waiter more: the neighbour is preempted, not the owner."""
    with pair(tmp_path, BLOCKS) as two:
        short_of_a_block(two, waiter=True)
        with hoarding(two):
            two.gate.open()
            two.right(two.owner, "owner", OWNER)
            two.right(two.other, "urgent", OWNER)
        two.right(two.owner, "old", OLD, 20)
        assert list(two.owner.ends) == [("owner", 0), ("old", 0)]
        assert two.owner_engine.load().counters["preemptions"] >= 1
        assert two.count("duplicates") == 0
        two.empty()


def test_without_a_waiter_the_less_urgent_is_preempted(tmp_path: Path) -> None:
    """The same with no waiter: the owner gives way to its neighbour."""
    with pair(tmp_path, BLOCKS) as two:
        short_of_a_block(two, waiter=False)
        with hoarding(two):
            two.gate.open()
            two.right(two.owner, "old", OLD, 20)
        two.right(two.owner, "owner", OWNER)
        assert list(two.owner.ends) == [("old", 0), ("owner", 0)]
        assert two.owner_engine.load().counters["preemptions"] >= 1
        two.empty()


def test_a_preempted_owner_passes_its_claim_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preempted though another waits: the waiter is the one to compute, on top of what was sealed, and only it."""
    monkeypatch.setattr(Scheduler, "inherit", lambda *_: None)
    with pair(tmp_path, BLOCKS) as two:
        short_of_a_block(two, waiter=True)
        with hoarding(two):
            two.gate.open()
            two.right(two.owner, "old", OLD, 20)
        two.right(two.other, "urgent", OWNER)
        two.right(two.owner, "owner", OWNER)
        counters = two.stats().counters
        assert counters["duplicates"] == 0
        assert two.owner_engine.load().counters["preemptions"] >= 1
        two.empty()


def test_all_finish_with_one_copy_whoever_is_killed_or_preempted(tmp_path: Path) -> None:
    """A pool smaller than owner and waiters, one batch slot where they wait: the first owner is killed (kill -9), the
    second preempted; the third computes what is left, all are answered, and there is one copy of the prompt.

    The gate counts the steps until the pool is short: "old" then needs another block 3 steps later, of the 16 that the
    second needs for the prompt.
    """
    waiters, long = ("a", "b", "c"), words(1000, 2)
    with pair(tmp_path, 67, slots=2, other_slots=1) as two, claimant(two.run_dir, long) as first:
        two.owner.ask("old", OLD, priority=3, max_tokens=40)
        two.gate.allow(1)
        wait_for(lambda: two.owner.tokens.get(("old", 0)), "it decodes", 30)
        two.owner.ask("second", long, priority=5)
        two.gate.allow(1)
        two.wait_for_count("waits", 1)
        for name in waiters:
            two.other.ask(name, long, priority=6)
        two.wait_for_count("waits", 2)
        two.aside(3)
        first.kill()
        wait_for(lambda: two.owner_engine._waiters._ended.qsize(), "the second is told to compute", 30)
        two.gate.allow(1)
        two.wait_for_count("allocates", 3)
        with hoarding(two):
            two.gate.open()
            wait_for(lambda: two.owner_engine.load().counters["preemptions"], "the second owner is preempted", 30)
        for name in waiters:
            two.right(two.other, name, long)
        two.right(two.owner, "second", long)
        two.right(two.owner, "old", OLD, 40)
        counters = two.stats().counters
        assert (counters["seals"], counters["duplicates"]) == (62 + 52 // 16, 0)
        two.empty()
