"""Looking ahead: a decoding batch asks seldom, never too late, and holds little that it does not use."""

from __future__ import annotations

import numpy as np
import pytest

from quire_engine.scheduling.scheduler import Scheduler, SchedulerLimits
from quire_engine.sequences.sequence import Sequence
from quire_engine.sequences.step_plan import StepPlan
from tests.engine.scheduling.test_scheduler import sequence

BLOCK = 16


def batch(prompts: list[int], max_tokens: int) -> tuple[Scheduler, list[Sequence]]:
    """A scheduler whose sequences have computed their prompts and drawn a first token."""
    scheduler = Scheduler(SchedulerLimits(len(prompts), 4096, BLOCK))
    made = [sequence(arrival, prompt) for arrival, prompt in enumerate(prompts)]
    for one in made:
        one.request.sampling = type(one.request.sampling)(max_tokens)
        one.request.longest = 1 << 20
        one.table, one.writable = np.zeros(-(-len(one.tokens) // BLOCK), np.int32), True
        one.computed = len(one.tokens)
        one.append(1)
        scheduler.joined(one)
    return scheduler, made


def decode(scheduler: Scheduler, wanted: StepPlan) -> None:
    """Grant what was asked for, compute a token of each sequence, and draw the next."""
    for one, tokens in (*wanted.extends, *wanted.ahead):
        assert -(-tokens // BLOCK) == len(one.table) + 1, "a block at a time"
        one.grow(1)
    for work in wanted.work:
        one = work.sequence
        assert one.computed + work.count <= len(one.table) * BLOCK, "computed beyond what was granted"
        one.computed += work.count
        one.append(1)
        if not one.tokens_left:
            scheduler.remove(one)


def test_a_steady_batch_asks_once_in_a_block_s_worth_of_steps() -> None:
    """Whatever the offsets within their blocks: no block comes too late, and most steps ask for nothing."""
    scheduler, made = batch([1000 + 5 * i for i in range(20)], 200)
    asked, held = 0, []
    for _ in range(160):
        wanted = scheduler.plan({}, False)
        asked += bool(wanted.extends or wanted.ahead)
        decode(scheduler, wanted)
        held.append(1 - sum(s.computed for s in made) / sum(len(s.table) * BLOCK for s in made))
    assert [len(s.tokens) for s in made] == [1161 + 5 * i for i in range(20)]
    assert asked <= 160 // BLOCK + 2
    assert sum(held) / len(held) < 0.02


def test_short_sequences_look_less_far() -> None:
    """What a batch holds early stays small beside its length: sequences of a block look no further than now."""
    scheduler, _ = batch([16] * 8 + [15], 100)
    assert scheduler.plan({}, False).ahead == []


@pytest.mark.parametrize("max_tokens", [2, 3, 16, 17, 40])
def test_nothing_is_asked_for_beyond_the_last_token(max_tokens: int) -> None:
    """A sequence that ends within its block gets no other; each draws exactly its tokens."""
    scheduler, made = batch([640, 645, 655], max_tokens)
    while scheduler.running:
        decode(scheduler, scheduler.plan({}, False))
    assert [s.generated for s in made] == [max_tokens] * 3
    assert [len(s.table) for s in made] == [-(-(len(s.tokens) - 1) // BLOCK) for s in made]


def test_whoever_comes_or_goes_ends_the_repetition() -> None:
    """The step after a sequence left or joined is of those that are there."""
    scheduler, made = batch([1000, 1001, 1002], 100)
    for _ in range(3):
        decode(scheduler, scheduler.plan({}, False))
    scheduler.remove(made[1])
    assert [w.sequence for w in scheduler.plan({}, False).work] == [made[0], made[2]]
    scheduler.joined(made[1])
    assert [w.sequence for w in scheduler.plan({}, False).work] == made


def test_without_space_each_step_is_looked_at_anew() -> None:
    """A block that is not there ahead is asked for again when it is needed, not before and not later."""
    scheduler, made = batch([1000, 1004], 100)
    wanted = scheduler.plan({}, False)
    while not wanted.extends:
        decode(scheduler, wanted)
        wanted = scheduler.plan({}, False)
    assert wanted.ahead
    wanted.ahead = []
    scheduler.short_ahead()
    decode(scheduler, wanted)
    while not (wanted := scheduler.plan({}, False)).extends:
        decode(scheduler, wanted)
    assert [s for s, _ in wanted.extends] in ([made[0]], [made[1]])


def test_a_steady_batch_still_admits() -> None:
    """A waiting request is chosen beside a step that is like the one before, within the budget that it leaves."""
    scheduler, made = batch([1000, 1001], 100)
    scheduler = _with_room(scheduler, made, 3)
    for _ in range(3):
        decode(scheduler, scheduler.plan({}, True))
    scheduler.add(sequence(9, 20))
    wanted = scheduler.plan({}, True)
    assert [s.arrival for s in wanted.admits] == [9]
    assert (len(wanted.work), wanted.budget_left) == (2, 4096 - 2)


def _with_room(scheduler: Scheduler, made: list[Sequence], slots: int) -> Scheduler:
    """The same batch under a scheduler with more batch slots."""
    other = Scheduler(SchedulerLimits(slots, scheduler.limits.max_batch_tokens, BLOCK))
    for one in made:
        other.joined(one)
    return other
