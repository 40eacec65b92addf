"""The scheduler: budget, chunks, admission, preemption. Pure logic, no kvstore."""

from __future__ import annotations

from array import array

import numpy as np

from quire_engine.scheduling.scheduler import Scheduler, SchedulerLimits
from quire_engine.sequences.sequence import Request, Sequence
from quire_engine.sequences.step_plan import SCORED_TOKENS, StepPlan
from quire_proto.gateway_link import Sampling, TokenLogprob
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.u32 import pack_u32

BLOCK = 4


def sequence(arrival: int, prompt: int, *, n: int = 1, priority: int = 0) -> Sequence:
    tokens = list(range(prompt))
    request = Request(f"r{arrival}", "t", pack_u32(tokens), Sampling(8), n, priority, array("I"), frozenset())
    return Sequence(0, request, 0, array("I", tokens), DomainChain(b"k", BLOCK, tokens), arrival)


def scheduler(**changes: int) -> Scheduler:
    return Scheduler(SchedulerLimits(**{"max_sequences": 8, "max_batch_tokens": 16, "block_size": BLOCK, **changes}))


def run(sched: Scheduler, wanted: StepPlan) -> None:
    """Grant all that was wanted, compute it, and let each finished prompt grow by a token."""
    for s, tokens in wanted.extends:
        s.table = np.zeros(-(-tokens // BLOCK), np.int32)
    for s in wanted.admits:
        s.table, s.writable = np.zeros(-(-len(s.tokens) // BLOCK), np.int32), True
        sched.admitted(s, wanted)
    for work in wanted.work:
        work.sequence.computed += work.count
        if work.sequence.remaining == 0:
            work.sequence.append(1)


def test_a_long_prompt_is_chunked_while_others_decode() -> None:
    """A prompt beyond the budget is computed in chunks, and decodes go on beside every chunk."""
    sched = scheduler()
    for arrival in (1, 2, 3):
        sched.add(sequence(arrival, 4))
    run(sched, sched.plan({}, True))
    long = sequence(4, 40)
    sched.add(long)
    run(sched, sched.plan({}, True))
    seen = [long.computed]
    while long.generated == 0:
        wanted = sched.plan({}, True)
        assert sum(w.count for w in wanted.work) <= 16
        assert sum(w.sequence.decoding for w in wanted.work) == 3
        run(sched, wanted)
        seen.append(long.computed)
    assert seen == [13, 26, 39, 40]


def test_admission_is_bounded_by_slots_of_all_continuations() -> None:
    """A request with n continuations takes n batch slots from the start."""
    sched = scheduler(max_sequences=4)
    for s in (sequence(1, 2, n=3), sequence(2, 2), sequence(3, 2)):
        sched.add(s)
    assert [s.arrival for s in sched.plan({}, True).admits] == [1, 2]


def test_expected_hits_cost_no_budget() -> None:
    """Sequences whose prompt is cached are admitted together although their prompts exceed the budget."""
    sched = scheduler()
    for arrival in (1, 2, 3):
        sched.add(sequence(arrival, 20))
    assert len(sched.plan({}, True).admits) == 1
    assert len(sched.plan(dict.fromkeys((1, 2, 3), 16), True).admits) == 3


def test_nothing_is_admitted_when_told_to_wait() -> None:
    """While the kvstore asked to be left alone, waiting sequences stay waiting."""
    sched = scheduler()
    sched.add(sequence(1, 4))
    assert sched.plan({}, False).admits == []


def test_priority_goes_before_arrival() -> None:
    """A lower priority number is admitted first, whatever the order of arrival."""
    sched = scheduler(max_sequences=1)
    sched.add(sequence(1, 4, priority=1))
    sched.add(sequence(2, 4, priority=0))
    assert [s.arrival for s in sched.plan({}, True).admits] == [2]


def test_refusal_preempts_the_newest_and_holds_admissions() -> None:
    """A sequence without a block costs the newest one its blocks; none is admitted in its place at once."""
    sched = scheduler()
    for arrival in (1, 2):
        sched.add(sequence(arrival, 4))
    run(sched, sched.plan({}, True))
    first, second = sched.running
    wanted = sched.plan({}, True)
    assert {s.arrival for s, _ in wanted.extends} == {1, 2}
    assert sched.starved(first, wanted) is second
    assert wanted.work == []
    assert list(sched.waiting) == [second]
    assert sched.preemptions == 1
    assert sched.plan({}, True).admits == []
    sched.remove(first)
    assert sched.plan({}, True).admits == [second]


def test_a_lone_sequence_preempts_itself() -> None:
    """With no other to take from, the refused sequence gives its own blocks back and waits."""
    sched = scheduler()
    sched.add(sequence(1, 4))
    run(sched, sched.plan({}, True))
    (only,) = sched.running
    assert sched.starved(only, sched.plan({}, True)) is only
    assert sched.running == []


def test_a_forked_sequence_asks_before_it_writes() -> None:
    """A sequence that may not write yet asks to be extended although its table is long enough."""
    sched = scheduler()
    sched.add(sequence(1, 3))
    run(sched, sched.plan({}, True))
    (only,) = sched.running
    only.writable = False
    assert sched.plan({}, True).extends == [(only, 4)]


def test_a_sequence_set_aside_takes_nothing_and_keeps_its_place() -> None:
    """It is neither admitted nor forgotten; resumed it stands where it stood, before later arrivals."""
    sched = scheduler(max_sequences=1)
    first, second = sequence(1, 4), sequence(2, 4)
    sched.add(first)
    sched.add(second)
    sched.set_aside(first)
    assert [s.arrival for s in sched.plan({}, True).admits] == [2]
    assert sched.of_request("r1") == [first]
    sched.resume(first)
    assert [s.arrival for s in sched.plan({}, True).admits] == [1]
    sched.set_aside(second)
    sched.remove(second)
    sched.resume(second)
    assert list(sched.waiting) == [first], "what ended is not resumed"
    assert sched.clear() == [first]


def test_an_owner_is_as_urgent_as_its_waiters_until_it_has_computed() -> None:
    """While its prompt is computed the inherited priority saves it from preemption; when it decodes its own counts."""
    sched = scheduler()
    for arrival, priority in ((1, 3), (2, 5)):
        sched.add(sequence(arrival, 30, priority=priority))
    run(sched, sched.plan(dict.fromkeys((1, 2), 28), True))
    first, second = sched.running
    first.id, second.id = 7, 8
    sched.inherit(8, 0)
    sched.inherit(9, 0)
    assert sched.starved(first, sched.plan({}, False)) is first
    run(sched, sched.plan(dict.fromkeys((1, 2), 28), True))
    while not second.decoding:
        run(sched, sched.plan({}, True))
    assert second.priority == 5


def test_prompts_that_are_scored_are_computed_in_small_pieces() -> None:
    """However many they are, a step has the logits of so many of their tokens at most; others go on beside them."""
    sched = scheduler(max_batch_tokens=2048)
    scored, other = [sequence(arrival, 600) for arrival in (1, 2, 3)], sequence(4, 1000)
    for s in scored:
        s.request.prompt_logprobs = [TokenLogprob(0.0)] * 599
    for s in (*scored, other):
        sched.add(s)
    steps = 0
    while any(s.generated == 0 for s in scored):
        steps += 1
        wanted = sched.plan({}, True)
        before = {s: s.computed for s in scored}
        run(sched, wanted)
        assert 0 < sum(min(s.computed, 599) - min(before[s], 599) for s in scored) <= SCORED_TOKENS
        assert other.computed >= 1000
    assert steps <= 3 * 600 // SCORED_TOKENS + 2
