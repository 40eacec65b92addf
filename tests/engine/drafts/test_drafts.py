"""What is drafted, and what of it counts. Pure logic: no kvstore, no model."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quire_engine.drafts.drafts import LONGEST_DRAFT, Drafts
from quire_engine.model.runner import Drawn
from quire_engine.model.sampler import Sampled
from quire_engine.sequences.draft import Draft
from quire_engine.sequences.sequence import Request, Sequence
from quire_engine.sequences.step_plan import SCORED_TOKENS, StepPlan, Work
from quire_proto.gateway_link import Sampling
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.u32 import pack_u32

BLOCK = 4


def foreseen(most: int) -> tuple[int, ...]:
    """A hundred tokens are certain: 100, 101, ..."""
    return tuple(range(100, 100 + min(most, 100)))


def sequence(tokens: int = 6, blocks: int = 100, most: int = 1000, n: int = 1) -> Sequence:
    """One that decodes: all but its newest token are computed."""
    known = list(range(tokens))
    request = Request("r", "t", pack_u32(known[:2]), Sampling(most), n, 0, array("I"), frozenset(), longest=10_000)
    found = Sequence(1, request, 0, array("I", known), DomainChain(b"k", BLOCK, known), 1)
    found.computed, found.table = tokens - 1, np.zeros(blocks, np.int32)
    state: Any = SimpleNamespace(foreseen=foreseen)
    found.grammar = state
    return found


class Stand:
    """Drafts, and how often the batch was said to have grown."""

    def __init__(self, depth: int = 1) -> None:
        self.counters, self.grown = {"drafted_tokens": 0}, 0
        self.drafts = Drafts(BLOCK, depth, self._grow, self.counters)

    def _grow(self) -> None:
        self.grown += 1

    def plan(self, *sequences: Sequence, budget: int = 1000, settle: bool = True, **changes: Any) -> StepPlan:
        plan = StepPlan([Work(one, 1) for one in sequences], budget_left=budget, **changes)
        self.drafts.propose(plan)
        if settle:
            self.drafts.settle(plan)
        return plan


def lengths(plan: StepPlan) -> list[int]:
    return [item.rows - item.count for item in plan.work]


def drawn(of: Sequence, *tokens: int) -> list[Drawn]:
    return [Drawn(of, 0, Sampled(token)) for token in tokens]


def test_drafts_take_what_is_left_of_a_step() -> None:
    """At most so many of one sequence, of the budget, of the rows whose logits there may be, and of the answer."""
    assert lengths(Stand().plan(sequence())) == [LONGEST_DRAFT]
    assert lengths(Stand().plan(sequence(), sequence(), budget=70)) == [LONGEST_DRAFT, 70 - LONGEST_DRAFT]
    assert sum(lengths(Stand().plan(*(sequence() for _ in range(9))))) == SCORED_TOKENS
    assert lengths(Stand().plan(sequence(), budget=0)) == [0]
    assert lengths(Stand().plan(sequence(most=7))) == [2], "three more: two drafted, and one drawn behind them"
    plan = Stand().plan(sequence(), sequence(), budget=70)
    assert (plan.budget_left, plan.scored_left) == (0, SCORED_TOKENS - 70)


def test_only_what_draws_one_token_has_a_draft() -> None:
    """Not a prompt that goes on in the next step, not one that forks, not what no grammar holds."""
    free, chunk = sequence(), sequence()
    free.grammar, chunk.computed = None, 3
    assert lengths(Stand().plan(free, chunk, sequence(n=2))) == [0, 0, 0]
    stand = Stand()
    stand.plan(free)
    assert stand.grown == 0


def test_drafts_ask_for_blocks_ahead_and_make_do_without() -> None:
    """A sequence that must have a block asks for no other; a draft is cut where the table ends."""
    stand, short, must = Stand(), sequence(tokens=6, blocks=2), sequence(tokens=9, blocks=2)
    plan = stand.plan(short, must, settle=False, extends=[(must, 9)])
    assert plan.ahead == [(short, 6 + LONGEST_DRAFT)]
    assert lengths(plan) == [LONGEST_DRAFT, 3]
    must.table = np.zeros(3, np.int32)
    stand.drafts.settle(plan)
    assert lengths(plan) == [2, 3]
    assert plan.extends == [(must, 9)]


def test_drawn_tokens_count_up_to_the_first_that_was_not_drafted() -> None:
    """That one included; others of the step are as they were."""
    stand, one, other = Stand(), sequence(), sequence()
    work = [Work(one, 1, Draft(6, (100, 101, 102))), Work(other, 1)]
    for tokens, counted in (((100, 101, 102, 7), 4), ((100, 9, 102, 7), 2), ((8, 101, 102, 7), 1)):
        found = stand.drafts.confirm(work, drawn(one, *tokens) + drawn(other, 5))
        assert [d.sequence for d in found] == [one, other]
        assert tuple(s.token for s in (found[0].sampled, *found[0].behind)) == tokens[:counted]
    assert stand.counters["drafted_tokens"] == 9


@pytest.mark.parametrize("came", [100, 55])
def test_a_draft_behind_a_token_that_is_coming(came: int) -> None:
    """It is foreseen with that token, which is no part of it, and wrong if another one comes."""
    stand, one = Stand(depth=2), sequence()
    one.computed, one.in_flight, one.coming = 5, 1, 1
    (item,) = stand.plan(one).work
    assert item.draft == Draft(7, tuple(range(101, 101 + LONGEST_DRAFT)), 100)
    one.coming, one.in_flight, one.computed = 0, 0, 6
    one.tokens.append(came)
    (found,) = stand.drafts.confirm([item], drawn(one, *range(101, 102 + LONGEST_DRAFT)))
    assert len(found.behind) == (LONGEST_DRAFT if came == 100 else 0)


def test_what_came_otherwise_before_the_launch_has_no_draft() -> None:
    """A step may be collected between a plan and its launch."""
    stand, one = Stand(depth=2), sequence()
    one.computed, one.in_flight, one.coming = 5, 1, 1
    plan = stand.plan(one, settle=False)
    one.coming, one.in_flight, one.computed = 0, 0, 6
    one.tokens.append(55)
    stand.drafts.settle(plan)
    assert lengths(plan) == [0]


def test_wrong_drafts_become_rare_and_a_right_one_makes_them_usual_again() -> None:
    """Each that was wrong from its first token on is followed by twice as many tokens without one."""
    stand, one = Stand(), sequence()
    gaps = []
    for _ in range(4):
        (item,) = stand.plan(one).work
        stand.drafts.confirm([item], drawn(one, 1, *foreseen(item.rows - 1)))
        began = len(one.tokens)
        while not any(lengths(stand.plan(one))):
            one.tokens.append(1)
            one.computed += 1
        gaps.append(len(one.tokens) - began)
    assert gaps == [3, 5, 9, 17]
    (item,) = stand.plan(one).work
    stand.drafts.confirm([item], drawn(one, *foreseen(item.rows - 1), 1))
    one.tokens.append(1)
    one.computed += 1
    assert lengths(stand.plan(one)) == [LONGEST_DRAFT]


def test_a_draft_is_not_much_longer_than_what_was_right_of_the_last() -> None:
    """Where a model writes some tokens as the tokenizer does and others not, little is computed in vain."""
    stand, one = Stand(), sequence()
    for right in (5, 2, 3):
        (item,) = stand.plan(one).work
        tokens = (*foreseen(right), *[1] * (item.rows - right))
        (found,) = stand.drafts.confirm([item], drawn(one, *tokens))
        assert len(found.behind) == right
        assert lengths(stand.plan(one)) == [2 * (right + 1)]


def test_what_a_row_looks_back_on_behind_a_draft() -> None:
    """Known tokens, the one that is coming as it was foreseen, and drafted ones, up to the last but one."""
    one = sequence(tokens=6)
    draft = Draft(7, (101, 102, 103), 100)
    one.coming, one.in_flight = 1, 1
    whole = [2, 3, 4, 5, 100, 101, 102, 103]
    for place in range(1, 4):
        seen = draft.behind(6, place)
        for most in (None, 0, 1, 2, 3, 5, 50):
            before = whole[: 4 + place]
            wanted = before if most is None else before[max(0, len(before) - most) :]
            assert one._output(most, seen).tolist() == wanted  # type: ignore[union-attr]
    assert one._output(2).tolist() == [4, 5], "before the token that is coming"  # type: ignore[union-attr]
