"""Runner: one step's work as a packed batch through the model, and the tokens sampled from it.

The scrubs and copies the kvstore demanded come first, in the same order of execution as everything after them; then one
forward pass over all tokens of the step; then one sampling call over the rows that reached the end of their known
tokens. A row whose request forks here is drawn once for each continuation, from the same logits.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .attach import quiesce
from .interface import Backend
from .model import Model
from .plan import build_plan
from .request import Sequence
from .sampler import Sampled, SampleRow, sample
from .scheduler import Work
from .transfer import to_device


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token drawn for continuation ``index``; ``first`` marks the one the sequence itself goes on with."""

    sequence: Sequence
    index: int
    first: bool
    sampled: Sampled


class Runner:
    """Runs steps of one model over one arena.

    Attributes:
        on_release: called in ``release`` when nothing runs any more: whoever holds CUDA graphs drops them here.
    """

    def __init__(self, model: Model, backend: Backend) -> None:
        model.use(backend)
        self._model, self._backend = model, backend
        self.on_release: list[Callable[[], None]] = []

    def release(self) -> None:
        """Let go of the arena, so that it can be unmapped; the last call of a runner.

        Raises ContextPoisoned if the GPU failed; then nothing may be unmapped and the process should end.
        """
        quiesce(self._backend.arena)
        for drop in self.on_release:
            drop()
        self._model.let_go()
        del self._backend

    def run(self, work: list[Work], copies: list[tuple[int, int, int]]) -> list[Drawn]:
        """Compute ``work`` after ``copies`` (rows src, dst, slots; src -1 zeroes); one entry for each token drawn."""
        if copies:
            self._backend.copy_blocks(copies)
        if not work:
            return []
        tokens = array("I")
        for item in work:
            known = item.sequence
            tokens += known.tokens[known.computed : known.computed + item.count]
        counts = np.array([item.count for item in work])
        plan = build_plan(
            [item.sequence.table for item in work],
            [item.sequence.computed for item in work],
            counts,
            self._backend.block_size,
        )
        at_end = [i for i, item in enumerate(work) if item.count == item.sequence.remaining]
        rows = np.cumsum(counts)[at_end] - 1
        logits = self._model.forward(
            torch.from_numpy(np.frombuffer(tokens, np.uint32).astype(np.int64)), plan, torch.from_numpy(rows)
        )
        return _draw([work[i].sequence for i in at_end], logits)


def _draw(sequences: list[Sequence], logits: torch.Tensor) -> list[Drawn]:
    drawn: list[tuple[Sequence, int, bool]] = []
    lines: list[int] = []
    rows: list[SampleRow] = []
    for line, sequence in enumerate(sequences):
        for position, index in enumerate(sequence.continuations()):
            drawn.append((sequence, index, position == 0))
            lines.append(line)
            rows.append(sequence.sample_row(index))
    if not rows:
        return []
    picked = logits if len(lines) == len(sequences) else logits[to_device(torch.tensor(lines), logits.device)]
    return [Drawn(*what, sampled) for what, sampled in zip(drawn, sample(picked, rows), strict=True)]
