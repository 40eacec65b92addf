"""Graphs: decode steps captured once for each padded batch size, then replayed over refilled buffers.

A decode step launches a few hundred kernels that take less time than their launching does. Captured as a CUDA graph
they are one launch. A graph repeats addresses and grids, so nothing of a step may stand in it: token ids, positions,
slots, block tables, tiles and counts are copied into static buffers before each replay, and kernels read on the
device how much of them is meant. A step of fewer rows than its graph is padded with rows that store nothing, attend
to nothing, and whose logits are not read.

All are captured before the first request: a capture in between would stall every answer, and what they need of the
device's memory is known while there is still time to say so. The largest comes first, so that the others find its
memory in the pool; they share scratch memory and the logits, of which there is one buffer.

All that needs a GPU is the capture itself. A ``Capture`` that just calls the function again over the same buffers
gives the same results, and so proves refilling and padding where there is none.

Invariants: a step that does not fit (a prefill chunk, too many rows or blocks) runs without a graph; the arena's
addresses stand in every graph, so all are dropped before the arena is unmapped (``Runner.on_release``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import structlog
import torch

from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_engine.checkpoint.architecture import layer_window
from quire_engine.model.model import Model
from quire_engine.transfer import to_device

from .capture import Capture, CaptureRefused, Replay

if TYPE_CHECKING:  # Triton itself is an extra
    from quire_engine.attention.triton import TritonAttention

TABLE_ENTRIES = 1 << 18  # block ids a graph's buffers hold at most: 1 MiB
LONGER_ROPE = ("dynamic", "longrope")  # kinds of which the host looks at the positions in every step

log = structlog.get_logger()


def padded(rows: int) -> int:
    """The batch size whose graph serves ``rows``: 1, 2, 4, then multiples of 8, and of 32 above 64."""
    if rows <= 4:
        return 1 << (rows - 1).bit_length()
    step = 8 if rows <= 64 else 32
    return -(-rows // step) * step


class DecodeGraph:
    """Buffers and launches of decode steps of up to ``rows`` sequences.

    Args:
        table: block ids of all sequences together, at most.
        logits: [rows or more, vocab] where the result goes, shared with other graphs.
    """

    def __init__(self, model: Model, backend: TritonAttention, rows: int, table: int, logits: torch.Tensor) -> None:
        device, layers = backend.arena.device, range(model.config.num_hidden_layers)
        windows = tuple(dict.fromkeys(layer_window(model.config, layer) for layer in layers))
        self._model, self._backend, self._rows = model, backend, rows
        self._step = backend.static_step(windows, rows, table)
        # Of this plan only its number of rows is read, and the buffers that ``load`` prepares.
        empty = [np.zeros(1, np.int32)] * rows
        self._plan = build_plan(empty, [0] * rows, [1] * rows, backend.block_size)
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._positions = torch.zeros(rows, dtype=torch.int64, device=device)
        self._every = torch.arange(rows, device=device)
        self._logits = logits[:rows]
        self._replay: Replay | None = None

    def load(self, tokens: torch.Tensor, plan: AttentionPlan) -> None:
        """Copy a step into the buffers. Raises ValueError if it exceeds them."""
        try:
            self._backend.load(plan, self._step)
        except ValueError:
            plan.prepared.clear()  # it will run with buffers of its own
            raise
        self._plan.prepared.update(plan.prepared)
        used = len(tokens)
        positions = np.zeros(self._rows, np.int64)
        positions[:used] = plan.positions
        self._positions.copy_(to_device(torch.from_numpy(positions), self._positions.device))
        self._tokens[:used].copy_(tokens)
        self._tokens[used:].zero_()

    def capture(self, capture: Capture) -> None:
        """Capture the launches, once; what they compute meanwhile is a step that stores nothing.

        Raises what ``capture`` raises.
        """
        self._backend.load_nothing(self._plan, self._step)
        self._replay = capture(self._launch)

    def replay(self) -> torch.Tensor:
        """[rows, vocab] logits of the step loaded last, valid until the next replay of any graph."""
        assert self._replay is not None, "captured first"
        self._replay()
        return self._logits

    def _launch(self) -> None:
        self._logits.copy_(self._model.compute(self._tokens, self._positions, self._plan, self._every))


class DecodeGraphs:
    """The graphs of one model over one arena.

    Args:
        largest: most sequences in a step.
        capture: makes a replay of what a function launches.

    Attributes:
        replays: steps that ran as a replay.
        why_none: why there are no graphs; empty if there are, or none were made yet.
    """

    def __init__(self, model: Model, backend: TritonAttention, largest: int, capture: Capture) -> None:
        self._model, self._backend, self._capture = model, backend, capture
        self._largest = largest
        self._blocks = -(-model.max_model_len // backend.block_size) + 1
        self._graphs: dict[int, DecodeGraph] = {}
        self.replays = 0
        self.why_none = ""

    @torch.inference_mode()
    def make(self, batches: Iterable[int] = ()) -> None:
        """Capture the graphs of all sizes, or none: what cannot be captured runs without.

        Args:
            batches: only those for steps of so many sequences.

        Raises:
            OutOfMemoryError: the device's memory does not hold them.
            ContextPoisoned: the device failed.
        """
        began = time.monotonic()
        if kind := longer_rope(self._model.module):
            self._refuse(f"rotary positions of type {kind} are looked at by the host in every step")
            return
        sizes = sorted({padded(rows) for rows in batches or range(1, self._largest + 1)}, reverse=True)
        logits = torch.empty(sizes[0], self._model.vocab_size, dtype=torch.float32, device=self._backend.arena.device)
        for size in sizes:
            table = min(size * self._blocks, TABLE_ENTRIES)
            graph = DecodeGraph(self._model, self._backend, size, table, logits)
            try:
                graph.capture(self._capture)
            except CaptureRefused as exc:  # the model waits for the device somewhere
                self._refuse(str(exc))
                return
            self._graphs[size] = graph
        log.info("graphs_captured", sizes=sizes, seconds=round(time.monotonic() - began, 2))

    @torch.inference_mode()
    def forward(self, tokens: torch.Tensor, plan: AttentionPlan) -> torch.Tensor | None:
        """Logits [T, vocab] of a step with one token a sequence, or None if it has to run without a graph.

        Args:
            tokens: [T] on the device.
        """
        rows = len(tokens)
        graph = self._graphs.get(padded(rows))
        if graph is None or len(plan.counts) < rows:
            return None
        try:
            graph.load(tokens, plan)
        except ValueError:
            return None
        self.replays += 1
        return graph.replay()[:rows]

    def drop(self) -> None:
        """Forget all graphs and their buffers; nothing of them may be running."""
        self._graphs.clear()

    def _refuse(self, reason: str) -> None:
        log.warning("graphs_off", reason=reason)
        self.why_none = reason
        self.drop()


def longer_rope(module: torch.nn.Module) -> str:
    """The kind of rotary positions in ``module`` for which the host looks at those of a step; "" if there is none."""
    for part in module.modules():
        kinds = getattr(part, "rope_type", "")
        for kind in kinds.values() if isinstance(kinds, dict) else (kinds,):
            if kind in LONGER_ROPE:
                return str(kind)
    return ""
