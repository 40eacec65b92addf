"""How much of a decode step the host still costs, with CUDA graphs and without.

One model on the device, no kvstore: a step is its plan, the refill of the graph's buffers and one replay, after which
the host waits. ``host_ms`` is the time until that wait begins, during which a second step in flight could keep the
device busy; ``device_ms`` is what the device itself needs for the replay; ``ungraphed_ms`` is the same step launched
kernel by kernel.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu.kernels.clock import event
from bench.gpu.processes.stack import write_model
from bench.gpu.step import Row
from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_engine.attention.triton import TritonAttention
from quire_engine.model.graphs import Capture, CudaCapture, DecodeGraphs, Replay
from quire_engine.model.model import load_model
from quire_engine.transfer import to_device

BLOCK = 16


class DecodeSteps:
    """A model, an arena that is full of random keys and values, and graphs.

    Args:
        scratch: a directory for the model.
        sizes: of the model, see ``bench.models.tiny.make_model``.
        batches: numbers of sequences that will be asked for.
        keys: tokens of each sequence.
    """

    def __init__(
        self, scratch: Path, device: torch.device, sizes: dict[str, Any], batches: tuple[int, ...], keys: int
    ) -> None:
        self._device, self._keys = device, keys
        self._repeats = 2 if device.type == "cpu" else 30
        dtype = "float32" if device.type == "cpu" else "bfloat16"
        self._model = load_model(write_model(scratch / "model", **sizes), dtype, device)
        blocks = max(batches) * -(-keys // BLOCK)
        shape = (sizes["layers"], 2, sizes["kv_heads"], blocks, BLOCK, sizes["head_dim"])
        arena = torch.empty(shape, dtype=self._model.module.dtype, device=device).normal_()
        backend = TritonAttention(arena, self._model.heads)
        self._model.use(backend)
        self._kept = LastReplay(CudaCapture(device) if device.type == "cuda" else lambda launch: launch)
        self._graphs = DecodeGraphs(self._model, backend, max(batches), self._kept)

    def row(self, batch: int) -> Row:
        """Times of a step of ``batch`` sequences. Raises RuntimeError if it runs without a graph."""
        self._graphs.make([batch])
        host, step = self._times(batch, self._graphed)
        device = self._replay_ms() if self._device.type == "cuda" else None
        _, ungraphed = self._times(batch, self._ungraphed)
        row = {"batch": batch, "keys": self._keys, "step_ms": step, "host_ms": host, "ungraphed_ms": ungraphed}
        return row if device is None else row | {"device_ms": device, "host_share": host / step}

    def _graphed(self, tokens: torch.Tensor, plan: AttentionPlan) -> None:
        if self._graphs.forward(tokens, plan) is None:
            raise RuntimeError("the step runs without a graph: see the log")

    def _ungraphed(self, tokens: torch.Tensor, plan: AttentionPlan) -> None:
        self._model.forward(tokens, plan, torch.arange(len(tokens)))

    def _times(self, batch: int, run: Callable[[torch.Tensor, AttentionPlan], None]) -> tuple[float, float]:
        """Medians in milliseconds: until everything is launched, and until it is done."""
        blocks = -(-self._keys // BLOCK)
        tables = list(np.random.default_rng(0).permutation(batch * blocks).astype(np.int32).reshape(batch, blocks))
        found = []
        for repeat in range(self._repeats + 1):
            began = time.perf_counter()
            plan = build_plan(tables, [self._keys - 1] * batch, [1] * batch, BLOCK)
            run(to_device(torch.full((batch,), 7 + repeat % 7), self._device), plan)
            launched = time.perf_counter()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            found.append((1000 * (launched - began), 1000 * (time.perf_counter() - began)))
        host, step = (statistics.median(column) for column in zip(*found[1:], strict=True))
        return host, step

    def _replay_ms(self) -> float:
        """Time on the device of the replay captured last: many in a row, so that the device is never without work."""
        begin, end = event(), event()
        begin.record()
        for _ in range(self._repeats):
            self._kept.last()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / self._repeats


class LastReplay:
    """A capture that keeps the replay it made last."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.last: Replay = lambda: None

    def __call__(self, launch: Replay) -> Replay:
        """See ``quire_engine.model.graphs``."""
        self.last = self._capture(launch)
        return self.last
