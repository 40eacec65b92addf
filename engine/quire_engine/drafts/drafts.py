"""Drafts: tokens that a grammar leaves little choice for, computed together instead of one in a step.

Where a grammar says which text comes, the tokenizer's tokens of that text are drafted: the step computes them behind
the sequence's last token, and draws at each place under the mask of that place. What is drawn counts as far as it is
what was drafted, and so does the first token that is not: so a draft changes how many steps an answer takes, and no
token of it.

Drafts cost nobody anything but time: they get what prompts and other sequences leave of a step's tokens, and blocks
that the pool has to spare. A sequence whose model writes otherwise than the tokenizer is left alone for twice as many
tokens each time that its first drafted token was wrong.

Where two steps are in flight the token before a draft may be still coming. It is foreseen, too, and if another comes
the whole draft is wrong. What follows a draft is known when that is collected, so its sequence computes in every
second step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from quire_engine.model.runner import Drawn
from quire_engine.sequences.draft import Draft
from quire_engine.sequences.sequence import Sequence
from quire_engine.sequences.step_plan import StepPlan, Work

LONGEST_DRAFT = 64  # tokens of a draft
MOST_MISSES = 8  # a power of two
WRONG = -1  # in place of how many drafted tokens were right


@dataclass(slots=True)
class _Habit:
    """How a sequence has taken its drafts.

    Attributes:
        misses: drafts wrong from their first token on, since one was not.
        again: the length at which it gets drafts again.
    """

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
        if state is None or most < self._least or item.count < sequence.remaining or not sequence.single:
            return None
        habit = self._habits.get(sequence)
        if habit is not None and known < habit.again:
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
        kept, places = list[Drawn](), dict.fromkeys(drafts, 0)
        for one in drawn:
            draft, sequence = drafts.get(one.sequence), one.sequence
            if draft is None:
                kept.append(one)
                continue
            place = places[sequence]
            if place == WRONG:
                continue
            if place == 0:
                kept.append(one)
            else:
                kept[-1] = replace(kept[-1], behind=(*kept[-1].behind, one.sampled))
            right = draft.holds(sequence.tokens) and draft.tokens[place : place + 1] == (one.sampled.token,)
            places[sequence] = place + 1 if right else WRONG
            if place == 0:
                self._note(sequence, right)
        self._counters["drafted_tokens"] += sum(len(draft.tokens) for draft in drafts.values())
        return kept

    def _note(self, sequence: Sequence, right: bool) -> None:
        """Whether the first token of its draft was right."""
        if right:
            self._habits.pop(sequence, None)
            return
        habit = self._habits.setdefault(sequence, _Habit())
        habit.misses = min(habit.misses + 1, MOST_MISSES)
        habit.again = len(sequence.tokens) + 1 + 2**habit.misses
