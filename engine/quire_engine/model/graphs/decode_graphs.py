"""Graphs: decode steps captured once for each padded batch size, then replayed over refilled buffers.

A decode step launches a few hundred kernels that take less time than their launching does. Captured as a CUDA graph
they are one launch. A graph repeats addresses and grids, so nothing of a step may stand in it: token ids, positions,
slots, block tables, tiles and counts are copied into static buffers before each replay, and kernels read on the
device how much of them is meant. A step of fewer rows than its graph is padded with rows that store nothing, attend
to nothing, and whose logits are not read.

All that needs a GPU is the capture itself. A ``Capture`` that just calls the function again over the same buffers
gives the same results, and so proves refilling and padding where there is none.

Invariants: a step that does not fit (a prefill chunk, too many rows or blocks) runs without a graph; the arena's
addresses stand in every graph, so all are dropped before the arena is unmapped (``Runner.on_release``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import structlog
import torch

from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_engine.checkpoint.architecture import layer_window
from quire_engine.model.model import Model
from quire_engine.transfer import to_device

from .capture import Capture, Replay

if TYPE_CHECKING:  # Triton itself is an extra
    from quire_engine.attention.triton import TritonAttention

TABLE_ENTRIES = 1 << 18  # block ids a graph's buffers hold at most: 1 MiB

log = structlog.get_logger()


def padded(rows: int) -> int:
    """The batch size whose graph serves ``rows``: 1, 2, 4, then multiples of 8, and of 32 above 64."""
    if rows <= 4:
        return 1 << (rows - 1).bit_length()
    step = 8 if rows <= 64 else 32
    return -(-rows // step) * step


class DecodeGraph:
    """Buffers and launches of decode steps of up to ``rows`` sequences."""

    def __init__(self, model: Model, backend: TritonAttention, rows: int, table: int) -> None:
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
        self._logits: torch.Tensor | None = None
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
        """Capture the launches, once; the step loaded last may be computed by this. Raises RuntimeError."""
        if self._replay is None:
            self._replay = capture(self._launch)

    def replay(self) -> torch.Tensor:
        """[rows, vocab] logits of the step loaded last, valid until the next replay."""
        assert self._replay is not None, "captured first"
        self._replay()
        assert self._logits is not None
        return self._logits

    def _launch(self) -> None:
        self._logits = self._model.compute(self._tokens, self._positions, self._plan, self._every)


class DecodeGraphs:
    """The graphs of one model over one arena, made as batch sizes come up.

    Args:
        largest: most sequences in a step.
        capture: makes a replay of what a function launches.

    Attributes:
        replays: steps that ran as a replay.
    """

    def __init__(self, model: Model, backend: TritonAttention, largest: int, capture: Capture) -> None:
        self._model, self._backend, self._capture = model, backend, capture
        self._largest = padded(largest)
        self._blocks = -(-model.max_model_len // backend.block_size) + 1
        self._graphs: dict[int, DecodeGraph] = {}
        self._possible = True
        self.replays = 0

    @torch.inference_mode()
    def forward(self, tokens: torch.Tensor, plan: AttentionPlan) -> torch.Tensor | None:
        """Logits [T, vocab] of a step with one token a sequence, or None if it has to run without a graph.

        Args:
            tokens: [T] on the device.
        """
        rows = len(tokens)
        if not self._possible or len(plan.counts) < rows or rows > self._largest:
            return None
        graph = self._graph(padded(rows))
        try:
            graph.load(tokens, plan)
        except ValueError:
            return None
        try:
            graph.capture(self._capture)
        except RuntimeError as exc:  # the model waits for the device somewhere; a fault of the device shows again
            log.warning("graphs_off", reason=str(exc).partition("\n")[0])
            self._possible = False
            plan.prepared.clear()
            return None
        self.replays += 1
        return graph.replay()[:rows]

    def _graph(self, size: int) -> DecodeGraph:
        graph = self._graphs.get(size)
        if graph is None:
            table = min(size * self._blocks, TABLE_ENTRIES)
            graph = self._graphs[size] = DecodeGraph(self._model, self._backend, size, table)
            log.info("graph_made", rows=size, table=table)
        return graph

    def drop(self) -> None:
        """Forget all graphs and their buffers; nothing of them may be running."""
        self._graphs.clear()
