"""Runner: one step's work as a packed batch through the model, and the tokens chosen from it.

The scrubs and copies the kvstore demanded come first, in the same order of execution as everything after them; then one
forward pass over all tokens of the step; then one choice over the rows that reached the end of their known tokens.
A row whose request forks here is drawn once for each continuation, from the same logits.

A step is launched and read later. Where two may be in flight, a token that the earlier one draws can be the later
one's input before the host has seen it: it is copied on the device, from choice to input.

What a grammar allows next depends on all tokens before. So a step with rows that are held to one is launched without
its choice, computes, and draws when the step before has been collected and its tokens accepted: the masks are made
while the device computes the very logits that they are for. Such sequences run ahead like all others.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from quire_engine.attention.backend import AttentionBackend
from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_engine.checkpoint.architecture import widest_window
from quire_engine.sequences.sample_row import SampleRow
from quire_engine.sequences.sequence import Sequence
from quire_engine.sequences.step_plan import Work
from quire_engine.transfer import to_device

from .device_queue import DeviceQueue, Pending, queue_of
from .mask_filler import MaskedRow, MaskFiller
from .model import Model
from .prompt_scores import PromptScores
from .sampler import Choice, Sampled, choose_tokens
from .token_masks import TokenMasks

if TYPE_CHECKING:
    from .graphs import DecodeGraphs


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token drawn for continuation ``index``, and those drawn ``behind`` it at the places of a draft."""

    sequence: Sequence
    index: int
    sampled: Sampled
    behind: tuple[Sampled, ...] = ()


@dataclass(slots=True)
class Batch:
    """A step as the model takes it.

    Attributes:
        tokens: [T] query tokens, 0 where the token is not known yet.
        plan: the step's geometry.
        fed: rows of ``tokens`` and the lines of the step before whose tokens belong there.
        rows: [R] rows that draw, each as often as it draws; behind a draft's tokens one after another.
        drawn: sequence and continuation of each of them.
        samples: how each is drawn.
        onward: sequences that may go on with the token drawn here before it is known, and its line.
        masked: sequences that are held to a grammar, and the lines that they draw.
        scores: what of their prompts is scored.
    """

    tokens: array[int]
    plan: AttentionPlan
    fed: list[tuple[int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    drawn: list[tuple[Sequence, int]] = field(default_factory=list)
    samples: list[SampleRow] = field(default_factory=list)
    onward: dict[Sequence, int] = field(default_factory=dict)
    masked: list[MaskedRow] = field(default_factory=list)
    scores: PromptScores = field(default_factory=PromptScores)


@dataclass(slots=True, eq=False)
class Launched:
    """A step in flight.

    Attributes:
        onward: see ``Batch``.
        replayed: its launches were one graph's.
        choice: what was chosen, as soon as that is launched; complete when ``read`` returns.
        masks: being made, where nothing else is in flight.
        logits, newest: of the rows that draw, between their computation and the choice; ``newest``: [rows] the last
            token of each, where any looks back.
    """

    batch: Batch | None
    replayed: bool = False
    choice: Choice | None = None
    masks: Future[TokenMasks] | None = None
    logits: torch.Tensor | None = None
    newest: torch.Tensor | None = None
    pending: Pending[None] | None = None

    @property
    def onward(self) -> dict[Sequence, int]:
        """Sequences that may go on with a token drawn here, and its line."""
        return self.batch.onward if self.batch else {}

    @property
    def masked(self) -> bool:
        """Whether it is drawn by :meth:`Runner.draw`, when the tokens that the masks depend on are known."""
        return bool(self.batch and self.batch.masked)

    def read(self) -> list[Drawn]:
        """Wait until the step is complete; one entry for each token drawn. Raises ContextPoisoned."""
        assert self.pending is not None, "launched first"
        self.pending.result()
        if self.batch is None:
            return []
        self.batch.scores.read()
        if self.choice is None:
            return []
        drawn = zip(self.batch.drawn, self.choice.read(), strict=True)
        return [Drawn(*what, sampled) for what, sampled in drawn]


class Runner:
    """Runs steps of one model over one arena.

    Args:
        queue: where the work is done; the arena's device decides if it is not given.
        graphs: runs the decode steps that it can, if given.

    Attributes:
        on_release: called in ``release`` when nothing runs any more: what holds CUDA graphs drops them here.
    """

    def __init__(
        self,
        model: Model,
        backend: AttentionBackend,
        queue: DeviceQueue | None = None,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        model.use(backend)
        self._model, self._backend = model, backend
        self._queue = queue or queue_of(backend.arena.device)
        self._last: Launched | None = None
        self._graphs = graphs
        self._filler = MaskFiller(model.vocab_size, backend.arena.device)
        self.on_release: list[Callable[[], None]] = [graphs.drop] if graphs is not None else []

    @property
    def window(self) -> int | None:
        """The furthest that any layer sees back, in tokens; None if one sees everything."""
        return widest_window(self._model.config)

    @property
    def depth(self) -> int:
        """Steps that may be in flight at a time."""
        return self._queue.depth

    def release(self) -> None:
        """Let go of the arena, so that it can be unmapped; the last call of a runner.

        Raises ContextPoisoned if the GPU failed; then nothing may be unmapped and the process should end.
        """
        self._queue.close()
        self._filler.close()
        for drop in self.on_release:
            drop()
        self._last = self._graphs = None
        self._model.let_go()
        del self._backend

    def launch(self, work: list[Work], copies: list[tuple[int, int, int]]) -> Launched:
        """Begin to compute ``work`` after ``copies`` (rows src, dst, slots; src -1 zeroes), without waiting."""
        before = self._last
        batch = _batch(work, before.onward if before else {}, self._backend.block_size) if work else None
        launched = self._last = Launched(batch)

        def task() -> None:
            if copies:
                self._backend.copy_blocks(copies)
            if batch is not None:
                launched.logits = self._compute(launched, batch, before.choice if before else None)
                if not batch.masked:
                    self._choose(launched, None)

        if batch is not None and batch.masked and self.depth == 1:
            launched.masks = self._filler.begin(batch.masked)
        launched.pending = self._queue.submit(task)
        return launched

    def draw(self, launched: Launched) -> None:
        """Choose the tokens of a step with masked rows, the newest; those of all steps before have been accepted."""
        assert launched.batch is not None, "a step with masked rows"
        masks = launched.masks.result() if launched.masks else self._filler.fill(launched.batch.masked)
        launched.pending = self._queue.submit(lambda: self._choose(launched, masks))

    @torch.inference_mode()
    def _choose(self, launched: Launched, masks: TokenMasks | None) -> None:
        """Choose the step's tokens, if any row draws."""
        if launched.logits is not None and launched.batch is not None:
            launched.choice = choose_tokens(launched.logits, launched.batch.samples, launched.newest, masks)
            launched.logits = launched.newest = None

    @torch.inference_mode()
    def _compute(self, launched: Launched, batch: Batch, before: Choice | None) -> torch.Tensor | None:
        """Logits of the rows that draw, in their order."""
        device = self._model.device
        tokens = to_device(torch.from_numpy(np.frombuffer(batch.tokens, np.uint32).astype(np.int64)), device)
        if batch.fed:
            assert before is not None, "a token of the step before"
            rows, lines = to_device(torch.tensor(batch.fed).T.contiguous(), device)
            tokens.index_copy_(0, rows, before.tokens.index_select(0, lines))
        logits = self._graphs.forward(tokens, batch.plan) if self._graphs is not None else None
        launched.replayed = logits is not None
        drawing = where = np.array(batch.rows + batch.scores.rows, dtype=np.int64)
        if logits is None:
            drawing, where = np.unique(drawing, return_inverse=True)
            logits = self._model.forward(tokens, batch.plan, torch.from_numpy(drawing))
        if batch.scores.rows:
            where, scored = np.split(where, [len(batch.rows)])
            batch.scores.compute(logits[to_device(torch.from_numpy(scored), device)])
        if not batch.rows:
            return None
        if len(where) != len(logits) or (where[1:] <= where[:-1]).any():
            logits = logits[to_device(torch.from_numpy(where), device)]
        if any(row.looks_back for row in batch.samples):  # what a row computes is its last token, known or not
            launched.newest = tokens[to_device(torch.tensor(batch.rows), device)]
        return logits


def _batch(work: list[Work], coming: dict[Sequence, int], block_size: int) -> Batch:
    """The step's batch; ``coming`` are the lines of the tokens that the step before draws."""
    plan = build_plan(
        [item.sequence.table for item in work],
        [item.sequence.launched for item in work],
        [item.rows for item in work],
        block_size,
    )
    batch = Batch(array("I"), plan)
    for item in work:
        sequence = item.sequence
        batch.scores.add(sequence, item.count, len(batch.tokens))
        known = sequence.tokens[sequence.launched : sequence.launched + item.count]
        batch.tokens += known
        if len(known) < item.count:
            batch.fed.append((len(batch.tokens), coming[sequence]))
            batch.tokens.append(0)
        if item.count < sequence.remaining:
            continue
        if sequence.goes_on and item.draft is None:
            batch.onward[sequence] = len(batch.rows)
        first, last = len(batch.rows), len(batch.tokens) - 1
        batch.tokens += array("I", item.draft.tokens if item.draft else ())
        for index in sequence.draws():
            for place in range(item.rows - item.count + 1):
                batch.rows.append(last + place)
                batch.drawn.append((sequence, index))
                batch.samples.append(sequence.sample_row(index, item.draft, place))
        if sequence.grammar is not None:
            banned = [sequence.banned(place) for place in range(item.rows - item.count + 1)]
            batch.masked.append(MaskedRow(sequence, range(first, len(batch.rows)), banned, item.draft))
    return batch
