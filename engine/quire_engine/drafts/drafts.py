"""Drafts: tokens that a grammar leaves little choice for, computed together instead of one in a step.

Where a grammar says which text comes, the tokenizer's tokens of that text are drafted: the step computes them behind
the sequence's last token, and draws at each place under the mask of that place. What is drawn counts as far as it is
what was drafted, and so does the first token that is not: so a draft changes how many steps an answer takes, and no
token of it.

Drafts cost nobody anything but time: they get what prompts and other sequences leave of a step's tokens, and blocks
that the pool has to spare. Where a model writes otherwise than the tokenizer, a sequence's next draft is at most twice
as long as what was right of the last; and where not even the first token was, it is left alone, each time for twice as
many tokens.

Where two steps are in flight the token before a draft may be still coming. It is foreseen, too, and if another comes
the whole draft is wrong. What follows a draft is known when that is collected, so its sequence computes in every
second step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from quire_engine.model.runner import Drawn
from quire_engine.model.sampler import Sampled
from quire_engine.sequences.draft import Draft
from quire_engine.sequences.sequence import Sequence
from quire_engine.sequences.step_plan import StepPlan, Work

LONGEST_DRAFT = 64  # tokens of a draft
MOST_MISSES = 8  # a power of two


@dataclass(slots=True)
class _Habit:
    """How a sequence has taken its drafts.

    Attributes:
        most: tokens of the next, some more than were right of the last.
        misses: drafts wrong from their first token on, since one was not.
        again: the length at which it gets drafts again.
    """

    most: int = LONGEST_DRAFT
    misses: int = 0
    again: int = 0


class Drafts:
    """The drafts of one session.

    Args:
        block_size: tokens in a block.
        depth: steps that may be in flight.
        grown: called when some have more than one token to compute in a step.
        counters: of the engine.
    """

    def __init__(self, block_size: int, depth: int, grown: Callable[[], None], counters: dict[str, int]) -> None:
        self._block_size, self._grown, self._counters = block_size, grown, counters
        self._least = depth  # a sequence that sits out the next step must gain more than one token
        self._habits: WeakKeyDictionary[Sequence, _Habit] = WeakKeyDictionary()

    def propose(self, plan: StepPlan) -> None:
        """Add drafts to a plan, and what blocks they would need to what is asked for ahead."""
        left, size = min(plan.budget_left, plan.scored_left), self._block_size
        asked = dict((*plan.extends, *plan.ahead))  # what it cannot do without is not asked for with more
        for place, item in enumerate(plan.work):
            sequence = item.sequence
            if sequence.grammar is None or left < self._least:
                continue
            end = sequence.launched + item.count
            room = -(-asked[sequence] // size) * size - end if sequence in asked else left
            draft = self._draft(item, min(left, room, LONGEST_DRAFT))
            if draft is None:
                continue
            plan.work[place] = Work(sequence, item.count, draft)
            left -= len(draft.tokens)
            if sequence not in asked and end + len(draft.tokens) > len(sequence.table) * size:
                plan.ahead.append((sequence, end + len(draft.tokens)))

    def _draft(self, item: Work, most: int) -> Draft | None:
        sequence, known = item.sequence, len(item.sequence.tokens)
        most = min(most, sequence.tokens_left - 1)
        state, coming = sequence.grammar, sequence.coming
        if state is None or item.count < sequence.remaining or not sequence.single:
            return None
        habit = self._habits.get(sequence)
        if habit is not None:
            most = min(most, habit.most) if known >= habit.again else 0
        if most < self._least:
            return None
        found = state.foreseen(most + coming)
        if len(found) < self._least + coming:
            return None
        return Draft(known + coming, found[coming:], found[0] if coming else -1)

    def settle(self, plan: StepPlan) -> None:
        """The kvstore has answered: drafts keep what of them there is space and budget for."""
        for place, item in enumerate(plan.work):
            if item.draft is None:
                continue
            sequence = item.sequence
            room = len(sequence.table) * self._block_size - sequence.launched - item.count
            most = min(room, plan.budget_left, plan.scored_left) if item.draft.holds(sequence.tokens) else 0
            plan.work[place] = work = replace(item, draft=item.draft.cut(most))
            plan.budget_left -= work.rows - work.count
            plan.scored_left -= work.rows - work.count
            self._grown()

    def confirm(self, work: Iterable[Work], drawn: list[Drawn]) -> list[Drawn]:
        """What was drawn, without what stands behind a token that was drafted wrongly."""
        drafts = {item.sequence: item.draft for item in work if item.draft}
        if not drafts:
            return drawn
        found, place = list[Drawn](), 0
        while place < len(drawn):
            one = drawn[place]
            draft, rows = drafts.get(one.sequence), 1
            if draft is not None:
                rows += len(draft.tokens)
                sampled = [row.sampled for row in drawn[place : place + rows]]
                right = _right(draft, one.sequence, sampled)
                one = replace(one, behind=tuple(sampled[1 : right + 1]))
                self._note(one.sequence, right, len(draft.tokens))
                self._counters["drafted_tokens"] += len(draft.tokens)
            found.append(one)
            place += rows
        return found

    def _note(self, sequence: Sequence, right: int, drafted: int) -> None:
        """How many tokens of its draft were right."""
        if right == drafted:
            self._habits.pop(sequence, None)
            return
        habit = self._habits.setdefault(sequence, _Habit())
        habit.most = 2 * (right + 1)
        habit.misses = 0 if right else min(habit.misses + 1, MOST_MISSES)
        habit.again = 0 if right else len(sequence.tokens) + 1 + 2**habit.misses


def _right(draft: Draft, sequence: Sequence, sampled: list[Sampled]) -> int:
    """How many tokens of a draft were drawn, one after another."""
    if not draft.holds(sequence.tokens):
        return 0
    pairs = enumerate(zip(draft.tokens, sampled, strict=False))
    return next((place for place, (token, one) in pairs if token != one.token), len(draft.tokens))
