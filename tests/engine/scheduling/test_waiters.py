"""Waiting: what one engine computes another waits for, and whatever becomes of the one, the other goes on."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

import pytest

from quire_engine.scheduling import waiters
from quire_proto.client.client import KVReader
from quire_proto.step.retire import RetireList
from quire_proto.wire.u32 import pack_u32
from tests.support.engine_loop import words
from tests.support.engine_pair import Pair, claimant, pair
from tests.support.waits import wait_for

PROMPT = words(150)  # nine full blocks and six tokens; three steps
FULL = 144

pytestmark = pytest.mark.process


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as started:
        yield started


def owned(two: Pair, prompt: list[int] = PROMPT, priority: int = 0) -> None:
    """The gated engine has the blocks of a prompt and has computed nothing."""
    before = two.count("allocates")
    two.owner.ask("owner", prompt, priority=priority)
    two.wait_for_count("allocates", before + 1)


def computed_once(two: Pair, requests: int, size: int = 150, shared: int = FULL) -> None:
    """Of the prompts' tokens only what cannot be shared was computed more than once."""
    counters = two.stats().counters
    assert counters["prompt_tokens"] - counters["hit_tokens"] == size + (requests - 1) * (size - shared)
    assert counters["duplicates"] == 0


@pytest.mark.parametrize("deep", [False, True])
def test_what_another_engine_computes_is_waited_for(tmp_path: Path, deep: bool) -> None:
    """Three sequences of another engine hold nothing while they wait with one message, and then hit all it sealed."""
    with pair(tmp_path, deep=deep) as two:
        owned(two)
        for name in ("a", "b", "c"):
            two.other.ask(name, PROMPT)
        two.aside(3)
        assert (two.count("waits"), two.stats().blocks["held"]) == (1, 10)
        assert (two.other_engine.load().running, two.other_engine.load().waiting) == (0, 3)
        two.gate.open()
        two.right(two.owner, "owner", PROMPT)
        assert [two.right(two.other, name, PROMPT).cached_tokens for name in ("a", "b", "c")] == [FULL] * 3
        computed_once(two, 4)
        two.empty()


@pytest.mark.parametrize("deep", [False, True])
def test_twins_of_one_engine_wait_without_a_message(tmp_path: Path, deep: bool) -> None:
    """Five requests with one prompt on one engine: one computes it, none asks the kvstore to be told."""
    with pair(tmp_path, deep=deep) as two:
        for i in range(5):
            two.other.ask(f"twin-{i}", PROMPT)
        for i in range(5):
            two.right(two.other, f"twin-{i}", PROMPT)
        assert two.count("waits") == 0
        computed_once(two, 5)
        two.empty()


@pytest.mark.parametrize("deep", [False, True])
def test_a_prompt_that_ends_with_a_block_is_computed_once_too(tmp_path: Path, deep: bool) -> None:
    """A sequence that shares all of it computes its last token only, in a copy of the last block, on either engine."""
    even = words(160)
    with pair(tmp_path, deep=deep) as two:
        owned(two, even)
        for name in ("a", "b"):
            two.other.ask(name, even)
        two.aside(2)
        two.gate.open()
        two.owner.ask("twin", even)
        two.right(two.owner, "owner", even)
        for front, name in ((two.other, "a"), (two.other, "b"), (two.owner, "twin")):
            assert two.right(front, name, even).cached_tokens == 159
        computed_once(two, 4, 160, 159)
        assert two.count("copies") == 3
        two.empty()


def test_a_longer_prompt_waits_for_the_common_part_only(two: Pair) -> None:
    """It hits where the other's prompt ends and computes the rest; one that shares no whole block does not wait."""
    owned(two, PROMPT[:70])
    two.other.ask("longer", PROMPT)
    two.other.ask("apart", PROMPT[:10] + words(30, 5))
    two.right(two.other, "apart", PROMPT[:10] + words(30, 5))
    two.aside(1)
    two.gate.open()
    assert two.right(two.other, "longer", PROMPT).cached_tokens == 64
    two.right(two.owner, "owner", PROMPT[:70])
    two.empty()


def test_an_aborted_owner_leaves_its_work_to_a_waiter(two: Pair) -> None:
    """The owner is aborted after its first chunks: one waiter computes the rest, on top of what was sealed."""
    owned(two)
    for name in ("a", "b"):
        two.other.ask(name, PROMPT)
    two.aside(2)
    two.gate.allow(1)
    two.wait_for_count("computed_tokens", 64)
    two.abort(two.owner, "owner")
    two.gate.open()
    ends = [two.right(two.other, name, PROMPT).cached_tokens for name in ("a", "b")]
    assert sorted(ends) in ([64, FULL], [128, FULL])
    assert two.count("duplicates") == 0
    two.empty()


def test_an_aborted_waiter_leaves_the_others_waiting(two: Pair) -> None:
    """The one that was asked for goes: those that waited through it ask for themselves. Another one goes unnoticed."""
    owned(two)
    two.other.ask("asked", PROMPT)
    two.aside(1)
    for name in ("with", "too"):
        two.other.ask(name, PROMPT)
    two.aside(3)
    two.abort(two.other, "too")
    two.aside(2)
    assert two.count("waits") == 1
    two.abort(two.other, "asked")
    two.wait_for_count("waits", 2)
    two.gate.open()
    assert two.right(two.other, "with", PROMPT).cached_tokens == FULL
    two.right(two.owner, "owner", PROMPT)
    computed_once(two, 2)
    two.empty()


def test_members_do_not_wait_for_the_goodbye_of_an_aborted_waiter(two: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the kvstore never hears that the one that was asked for is gone, the others ask for themselves."""
    owned(two)
    two.other.ask("asked", PROMPT)
    two.aside(1)
    two.other.ask("with", PROMPT)
    two.aside(2)
    with monkeypatch.context() as patch:
        patch.setattr(RetireList, "drain_releases", lambda *_: [])
        two.abort(two.other, "asked")
        two.wait_for_count("waits", 2)
    two.gate.open()
    assert two.right(two.other, "with", PROMPT).cached_tokens == FULL
    two.right(two.owner, "owner", PROMPT)
    two.empty()


def test_a_goodbye_that_overtook_its_wait_is_said_again(two: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kvstore chooses a waiter whose end it did not hear of: it is told so, and the next one computes."""
    owned(two)
    two.other.ask("asked", PROMPT)
    two.aside(1)
    [asked] = two.other_engine._scheduler.aside
    kv = two.other_engine._kv
    assert kv is not None
    said: list[int] = []
    drain_releases = RetireList.drain_releases

    def lossy(retire: RetireList, held_back: Container[int] = ()) -> list[int]:
        due = drain_releases(retire, held_back)
        if retire is not kv._retire:
            return due
        lost = asked.id not in said
        said.extend(due)
        return [number for number in due if number != asked.id or not lost]

    monkeypatch.setattr(RetireList, "drain_releases", lossy)
    two.other.ask("next", PROMPT)
    two.aside(2)
    two.abort(two.other, "asked")
    two.wait_for_count("waits", 2)
    two.abort(two.owner, "owner")
    two.gate.open()
    two.right(two.other, "next", PROMPT)
    assert said.count(asked.id) == 2
    two.empty()


def test_an_aborted_owner_keeps_no_twin_waiting(two: Pair) -> None:
    """Owner and twin on one engine: the owner is aborted half-way, the twin computes the rest."""
    owned(two)
    two.owner.ask("twin", PROMPT)
    two.gate.allow(1)
    two.wait_for_count("computed_tokens", 64)
    wait_for(lambda: two.owner_engine.load().waiting, "the twin waits", 30)
    two.abort(two.owner, "owner")
    two.gate.open()
    assert two.right(two.owner, "twin", PROMPT).cached_tokens in (64, 128)
    assert two.count("duplicates") == 0
    two.empty()


def test_a_killed_owner_leaves_its_work_to_a_waiter(two: Pair) -> None:
    """kill -9 of the owner's process: one of two waiters computes, the other waits for that one."""
    with claimant(two.run_dir, PROMPT) as process:
        two.other.ask("a", PROMPT)
        two.other.ask("b", PROMPT)
        two.aside(2)
        process.kill()
        assert {two.right(two.other, name, PROMPT).cached_tokens for name in ("a", "b")} == {0, FULL}
        assert two.count("duplicates") == 0
    two.empty()


def test_an_owner_without_progress_is_passed_over(two: Pair) -> None:
    """The owner lives and beats but seals nothing: after the kvstore's patience the waiter computes."""
    with claimant(two.run_dir, PROMPT) as process:
        two.other.ask("a", PROMPT)
        two.right(two.other, "a", PROMPT)
        assert process.poll() is None
        process.kill()
    two.empty()


def test_who_waits_too_long_computes(two: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline a waiter computes a copy of its own; one that waited with it waits for that; one copy is kept."""
    monkeypatch.setattr(waiters, "WAIT_S", 0.2)
    owned(two)
    for name in ("a", "b"):
        two.other.ask(name, PROMPT)
    assert sorted(two.right(two.other, name, PROMPT).cached_tokens for name in ("a", "b")) == [0, FULL]
    two.gate.open()
    two.right(two.owner, "owner", PROMPT)
    assert two.count("duplicates") == FULL // 16
    assert two.count("waits") == 1
    two.empty()


def test_a_lost_wait_ends_in_computing(two: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the wait fails the sequence computes as if it had been told to."""
    owned(two)
    two.other.ask("a", PROMPT)
    two.aside(1)
    [group] = two.other_engine._waiters._groups
    two.other_engine._waiters._end(group, waiters.QuireError("no reply to wait"))
    two.right(two.other, "a", PROMPT)
    two.gate.open()
    two.right(two.owner, "owner", PROMPT)
    two.empty()


def published(two: Pair, prompt: list[int]) -> None:
    """The gated engine computes a publication of this prompt, and the other one has heard of it."""
    with KVReader(two.run_dir) as operator:
        operator.publish("agent", "public", pack_u32(prompt))
    kv = two.other_engine._kv
    assert kv is not None
    wait_for(lambda: kv.client.publications_stale, "the other engine hears of it", 30)
    two.wait_for_count("allocates", 1)


def test_a_pending_publication_is_computed_by_one(two: Pair) -> None:
    """A tenant's request waits for the publication that another engine computes, and hits all of it, tail included."""
    system = words(70, 4)
    published(two, system)
    mine, other = system + words(40, 8), system + words(9, 30)
    two.other.ask("a", mine, tenant="ada")
    two.other.ask("b", other, tenant="bob")
    two.aside(2)
    two.gate.open()
    assert two.right(two.other, "a", mine).cached_tokens == 70
    assert two.right(two.other, "b", other).cached_tokens == 70
    with KVReader(two.run_dir) as operator:
        operator.unpublish("agent")
    two.empty()


def test_a_publication_that_is_taken_back_keeps_nobody_waiting(two: Pair) -> None:
    """Unpublished while it is pending: a request that waited for it matches again and computes privately."""
    prompt = words(70, 4) + words(40, 8)
    published(two, prompt[:70])
    two.other.ask("a", prompt, tenant="ada")
    two.aside(1)
    with KVReader(two.run_dir) as operator:
        operator.unpublish("agent")
    assert two.right(two.other, "a", prompt).cached_tokens == 0
    two.gate.open()
    two.empty()


def test_a_tenant_that_is_to_be_quiet_stops_nobody(two: Pair) -> None:
    """One tenant finds no room beside another's guarantee: its request waits, those of others wait, hit and end."""
    with KVReader(two.run_dir) as operator:
        operator.quota("rich", guarantee=18)
    owned(two)
    two.other.ask("poor", words(300, 3), tenant="poor")
    two.wait_for_count("no_space", 1)
    two.other.ask("a", PROMPT)
    two.other.ask("b", PROMPT)
    two.aside(2)
    assert ("poor", 0) not in two.other.ends
    two.gate.open()
    assert [two.right(two.other, name, PROMPT).cached_tokens for name in ("a", "b")] == [FULL] * 2
    with KVReader(two.run_dir) as operator:
        operator.quota("rich", guarantee=0)
    two.right(two.other, "poor", words(300, 3))
    wait_for(lambda: two.other_engine.load().waiting == 0, "no request waits", 5)
    two.empty()
