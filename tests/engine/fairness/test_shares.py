"""Shares of tenants: counters in tokens by weight, batch slots, token budget. Pure logic, random loads."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_engine.fairness.shares import Shares
from quire_engine.fairness.tenant_queues import TenantQueues
from quire_engine.sequences.sequence import BACKGROUND
from tests.support.bare_loop import SLOTS, Loop, sequence

WEIGHTS = st.integers(1, 400)


@given(weights=st.lists(WEIGHTS, min_size=2, max_size=5), costs=st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_backlogged_tenants_get_work_by_weight(weights: list[int], costs: list[int]) -> None:
    """At any moment two tenants that always want work are apart by at most one piece of it, each over its weight."""
    shares, given_to = Shares(), Counter[str]()
    names = [f"t{i}" for i in range(len(weights))]
    for name, weight in zip(names, weights, strict=True):
        shares.weigh(name, weight)
        shares.join(name)
    for turn in range(300):
        name = shares.turn(names)
        cost = costs[turn % len(costs)]
        shares.charge(name, cost)
        given_to[name] += cost
        served = [given_to[name] / weight for name, weight in zip(names, weights, strict=True)]
        assert max(served) - min(served) <= max(costs) / min(weights) + 1e-6


def test_idling_saves_nothing_up() -> None:
    """A tenant that was away while another worked gets its half from now on, not what it did not use."""
    shares = Shares()
    shares.join("a")
    for _ in range(1000):
        shares.charge(shares.turn(["a"]), 10)
    shares.join("b")
    turns = Counter[str]()
    for _ in range(100):
        name = shares.turn(["a", "b"])
        turns[name] += 1
        shares.charge(name, 10)
    assert abs(turns["a"] - turns["b"]) <= 1


def test_a_tenant_that_only_decodes_is_not_in_debt_for_it() -> None:
    """Work done while no other tenant wanted any is held against none: both have half of the prompts from now on."""
    loop = Loop()
    loop.ask("a", 2, 10_000)
    for _ in range(2000):
        loop.step()
    before = loop.work.copy()
    for _ in range(50):
        loop.ask("b", 40, 1)
        loop.ask("a", 40, 1)
    for _ in range(100):
        loop.step()
    work = loop.work - before
    assert work["a"] >= 0.4 * work.total()


def test_waiting_behind_a_full_batch_saves_nothing_up() -> None:
    """A tenant with its portion of the slots, and more requests that wait for one, holds down no counter: another that
    used the budget meanwhile is not in debt for it when a third one comes."""
    loop = Loop()
    loop.scheduler.shares.weigh("full", 400)
    for _ in range(9):
        loop.ask("full", 1, 10_000)
    for _ in range(100):
        loop.ask("busy", 40, 1)
    for _ in range(60):
        loop.step()
    before = loop.work.copy()
    for _ in range(100):
        loop.ask("new", 40, 1)
    for _ in range(60):
        loop.step()
    served = loop.work - before
    assert abs(served["busy"] - served["new"]) <= 80


@settings(max_examples=15, deadline=None)
@given(
    weights=st.tuples(WEIGHTS, WEIGHTS),
    prompts=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    answers=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_two_floods_share_the_engine_by_weight(
    weights: tuple[int, int], prompts: tuple[int, int], answers: tuple[int, int]
) -> None:
    """Of two tenants that always wait, neither has less than its portion of both slots and work; no slot idles."""
    loop = Loop()
    for name, weight in zip("ab", weights, strict=True):
        loop.scheduler.shares.weigh(name, weight)
    for _ in range(250):
        for name, prompt, answer in zip("ab", prompts, answers, strict=True):
            while len(loop.scheduler.waiting.of(name)) < SLOTS:
                loop.ask(name, prompt, answer)
        loop.step()
    for name, weight in zip("ab", weights, strict=True):
        portion = weight / sum(weights)
        got = max(loop.work[name] / loop.work.total(), loop.slots[name] / loop.slots.total())
        assert got >= 0.8 * portion - 1 / SLOTS, (loop.work, loop.slots)


@pytest.mark.parametrize(
    "flood", [(4, 10_000, 1), (400, 8, 1), (60, 10_000, 8)], ids=["decodes", "prompts", "branches"]
)
def test_a_request_beside_a_flood_has_its_token_in_a_few_steps(flood: tuple[int, int, int]) -> None:
    """Whatever another tenant fills the engine with, slots or budget, a short prompt waits a handful of steps."""
    prompt, answer, n = flood
    loop = Loop()
    for _ in range(200):
        loop.ask("a", prompt, answer, n=n)
    for _ in range(50):
        loop.step()
    for _ in range(20):
        asked = loop.ask("b", 10, 1)
        start = loop.steps
        while not asked.generated:
            loop.step()
            assert loop.steps - start <= 2


def test_a_lone_tenant_loses_no_slot() -> None:
    """Without others nothing is preempted, and every slot is used."""
    loop = Loop()
    for _ in range(100):
        loop.ask("a", 2, 20)
    for _ in range(100):
        loop.step()
    assert loop.slots["a"] == 100 * SLOTS
    assert loop.scheduler.preemptions == 0


def test_slots_do_not_go_to_and_fro() -> None:
    """Once every tenant has its portion none is preempted any more."""
    loop = Loop()
    for _ in range(60):
        for name in "abc":
            loop.ask(name, 2, 10_000)
    for _ in range(40):
        loop.step()
    before = loop.scheduler.preemptions
    assert min(Counter(s.request.tenant for s in loop.scheduler.running).values()) >= SLOTS // 3
    for _ in range(100):
        loop.step()
    assert loop.scheduler.preemptions == before


def test_many_branches_are_admitted_in_part() -> None:
    """A request for more continuations than there are free slots begins with one slot, and holds up no other."""
    loop = Loop()
    for _ in range(3):
        loop.ask("a", 2, 50)
    loop.step()
    wide, behind = loop.ask("a", 2, n=SLOTS), loop.ask("a", 2)
    loop.step()
    assert (wide.slots, loop.scheduler.slots_left()) == (SLOTS - 3, 0)
    assert wide in loop.scheduler.running
    assert behind in loop.scheduler.waiting
    other = loop.ask("b", 2)
    loop.step()
    assert (wide.slots, loop.scheduler.preemptions) == (SLOTS - 4, 0), "a kept slot is given up before one in use"
    assert other in loop.scheduler.running


def test_what_others_wait_for_is_not_preempted() -> None:
    """A prompt that a sequence waits for keeps its slot; one that decodes gives it."""
    loop = Loop(slots=2, budget=4)
    owner, decoding = loop.ask("a", 100, 50), loop.ask("a", 2, 50)
    decoding.request.priority = -1
    loop.scheduler.waiting.remove(decoding)
    loop.scheduler.add(decoding)
    for _ in range(3):
        loop.step()
    assert {owner, decoding} == set(loop.scheduler.running)
    owner.inherited = 0
    loop.ask("b", 2)
    assert loop.scheduler.slot_donor() is decoding


def test_one_for_which_there_is_no_memory_empties_nothing() -> None:
    """A slot is given up once for a sequence, even if it cannot take it."""
    loop = Loop()
    for _ in range(2 * SLOTS):
        loop.ask("a", 2, 1000)
    loop.step()
    loop.ask("b", 2)
    assert loop.scheduler.slot_donor() is not None
    assert loop.scheduler.slot_donor() is None


def test_a_shortage_costs_the_tenant_that_has_most() -> None:
    """Not the newest of all, if that is another tenant's only sequence."""
    loop = Loop()
    for _ in range(3):
        loop.ask("a", 2, 50)
    loop.step()
    loop.ask("b", 2, 50)
    loop.step()
    wanted = loop.scheduler.plan({}, False)
    first = loop.scheduler.running[0]
    victim = loop.scheduler.starved(first, wanted)
    assert victim is not None
    assert (victim.request.tenant, victim.arrival) == ("a", 3)


def test_the_oldest_of_all_is_no_victim() -> None:
    """A tenant with one long sequence that came first keeps it; one that came later than another's gives it up."""
    loop = Loop()
    first, other = loop.ask("a", 40, 50), loop.ask("b", 2, 50)
    while other not in loop.scheduler.running:
        loop.step()
    last = loop.ask("c", 60, 50)
    while last not in loop.scheduler.running:
        loop.step()
    wanted = loop.scheduler.plan({}, False)
    assert loop.scheduler.starved(other, wanted) is last
    assert loop.scheduler.starved(first, wanted) is other


def test_what_no_client_waits_for_goes_last() -> None:
    """A publication is computed when no tenant's prompt can use the step, and first if a request waits for it."""
    loop = Loop(budget=4)
    loop.scheduler.add(nobodys := sequence("", 1000, 40, priority=BACKGROUND))
    loop.step()
    asked = loop.ask("a", 4)
    loop.step()
    assert (asked.computed, nobodys.computed) == (4, 4)
    loop.ask("b", 40)
    nobodys.inherited = 0
    loop.step()
    assert nobodys.computed > 4


def test_a_line_is_by_priority_and_arrival() -> None:
    """Within a tenant priority goes first; between tenants it is as if what comes earlier were computed."""
    lines = TenantQueues(Shares())
    asked = [sequence("a", 1, 2), sequence("a", 2, 2, priority=-1), sequence("b", 3, 2), sequence("a", 4, 2)]
    for s in asked:
        lines.add(s)
    assert [s.arrival for s in lines.in_turn()] == [2, 3, 1, 4]
    for s in asked:
        lines.remove(s)
    assert (len(lines), lines.tenants()) == (0, [])
