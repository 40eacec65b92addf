"""StepPlan: what the next step would compute, and what it needs from the kvstore for that.

The scheduler makes it, the session with the kvstore says it (``KvSession.sync``), and the answers change it: the step
that is launched is what is left of ``work`` then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .draft import Draft
from .sequence import Sequence

SCORED_TOKENS = 256  # of a step
Extends = list[tuple[Sequence, int]]


@dataclass(slots=True)
class Work:
    """``count`` tokens of one sequence in this step, and those drafted behind them."""

    sequence: Sequence
    count: int
    draft: Draft | None = None

    @property
    def rows(self) -> int:
        """Tokens that are computed."""
        return self.count + (len(self.draft.tokens) if self.draft else 0)


@dataclass(slots=True)
class StepPlan:
    """One step as the scheduler wants it.

    Attributes:
        work: what is to be computed, once the answers are known.
        extends: sequences that compute nothing in this step without the capacity named (tokens).
        ahead: sequences that will want the capacity named in a later step, and take no harm if it is not there.
        admits: waiting sequences that want a table.
        budget_left: tokens of the step's budget that nothing has been given yet; those of ``admits`` come out of it.
        scored_left: of them, those whose logits may be wanted: each takes as much memory as the vocabulary is large.
    """

    work: list[Work] = field(default_factory=list)
    extends: Extends = field(default_factory=list)
    ahead: Extends = field(default_factory=list)
    admits: list[Sequence] = field(default_factory=list)
    budget_left: int = 0
    scored_left: int = SCORED_TOKENS

    def most(self, sequence: Sequence) -> int:
        """How many of a sequence's tokens the step can compute, as far as that is for the plan to say."""
        most = min(sequence.remaining, self.budget_left)
        return min(most, self.scored_left) if sequence.unscored else most

    def give(self, sequence: Sequence, count: int) -> None:
        """``count`` tokens more of the sequence are computed."""
        self.budget_left -= count
        self.scored_left -= min(count, sequence.unscored)

    def drop(self, sequence: Sequence) -> None:
        """The sequence computes nothing in this step."""
        self.work = [item for item in self.work if item.sequence is not sequence]

    def drop_ended(self) -> None:
        """Nor do sequences that have ended since the plan was made."""
        self.work = [item for item in self.work if not item.sequence.ended]
