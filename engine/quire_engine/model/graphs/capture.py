"""Capture: a function that repeats what another one launches, as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Replay = Callable[[], None]
Capture = Callable[[Replay], Replay]


class CudaCapture:
    """Captures what a function launches; all graphs share one pool of memory, for no two run at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, launch: Replay) -> Replay:
        """A function that repeats the launches of ``launch``. Raises RuntimeError if they cannot be captured."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            launch()  # compiles kernels and sizes workspaces, which a capture may not
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads call no driver, but if one did that would be no reason to refuse this thread's capture.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            launch()
        self._pool = self._pool or graph.pool()
        replay: Replay = graph.replay
        return replay
