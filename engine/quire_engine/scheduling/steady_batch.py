"""Looking ahead: what a batch of decoding sequences will need soon, and for how many steps nothing at all.

A sequence needs a block once in ``block_size`` steps. Asked for one by one that is a message nearly every step; so
whenever one sequence must have a block, those that will need theirs within the *horizon* get it in the same message.
What they hold early is waste: half a horizon on the mean. The horizon is therefore at most one part in
``HORIZON_SHARE`` of the batch's mean length, which bounds that waste by half of it, and never longer than a block. A
message asks for at most ``MAX_AHEAD`` blocks ahead, so that none keeps the kvstore from others for long.

While no sequence comes or goes and every block is granted, a step is like the one before: what each sequence has left
is a number that falls by one, and nothing is done for each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from quire_engine.sequences.sequence import Sequence

HORIZON_SHARE = 32
MAX_AHEAD = 128

Rows = list[tuple[Sequence, int]]


@dataclass(frozen=True, slots=True)
class Needs:
    """Sequences, and the capacity in tokens that they want: ``extends`` for this step, ``ahead`` for later ones."""

    extends: Rows = field(default_factory=list)
    ahead: Rows = field(default_factory=list)


class SteadyBatch:
    """A batch whose every step computes one token of each sequence.

    It is to be given up when a sequence leaves or joins, and when a block is refused.
    """

    def __init__(self, batch: list[Sequence], block_size: int) -> None:
        """``batch``: before the first such step."""
        self._batch, self._block_size = batch, block_size
        ends = np.array([sequence.launched + 1 for sequence in batch], np.int64)
        tables = np.array([len(sequence.table) for sequence in batch], np.int64)
        self._spare = tables * block_size - ends  # tokens behind those that the present step computes
        # Steps after the present one: the last token is drawn and not computed, and a fork does something else.
        self._left = np.array([s.tokens_left - 1 if s.single else 0 for s in batch], np.int64)
        self._tokens = int(ends.sum())
        self._quiet = self._passed = 0

    def first(self, ask: bool) -> Needs:
        """What the first step needs, if blocks may be asked for ahead (``ask``)."""
        return self._look(ask)

    def next(self, ask: bool) -> Needs | None:
        """What one more step needs; None if it is not like the one before, because a sequence has ended."""
        self._passed += 1
        if self._passed <= self._quiet:
            return Needs()
        self._spare -= self._passed
        self._left -= self._passed
        self._tokens += self._passed * len(self._batch)
        self._passed = 0
        return None if int(self._left.min()) < 0 else self._look(ask)

    def _look(self, ask: bool) -> Needs:
        now = np.flatnonzero(self._spare < 0)
        later = self._within_horizon() if ask and len(now) else now[:0]
        self._spare[now] += self._block_size
        self._spare[later] += self._block_size
        self._quiet = max(0, int(min(self._spare.min(), self._left.min())))
        return Needs(self._one_block_more(now), self._one_block_more(later))

    def _within_horizon(self) -> np.ndarray:
        horizon = min(self._block_size, self._tokens // (HORIZON_SHARE * len(self._batch)))
        soon = (self._spare >= 0) & (self._spare < horizon) & (self._spare < self._left)
        found = np.flatnonzero(soon)
        return found if len(found) <= MAX_AHEAD else found[np.argsort(self._spare[found], kind="stable")[:MAX_AHEAD]]

    def _one_block_more(self, which: np.ndarray) -> Rows:
        size = self._block_size
        return [(s, len(s.table) * size + 1) for s in map(self._batch.__getitem__, which.tolist())]
