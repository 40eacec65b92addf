"""Capture: a function that repeats what another one launches, as a CUDA graph.

All captures go over one stream into one pool of memory: the allocator gives a freed block to the same stream only, and
each stream has a workspace of cuBLAS of its own. No two graphs run at a time, so they may share all of it.

A capture that fails leaves nothing behind. ``torch.cuda.graph`` ends the capture before it restores the current stream,
so where the end itself raises, torch stays on the capture's stream and its allocator goes on filling the pool: both are
put right here. What the failure was is decided then. Memory that is not there and a device that failed are no property
of the model, and go on as what they are; anything else means that these launches cannot be captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from quire_engine.kv.attach import quiesce

Replay = Callable[[], None]
Capture = Callable[[Replay], Replay]


class CaptureRefused(Exception):
    """These launches cannot be captured; the message says why."""


class CudaCapture:
    """Captures what a function launches.

    Args:
        device: of the launches.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle()

    def __call__(self, launch: Replay) -> Replay:
        """A function that repeats the launches of ``launch``.

        Raises:
            CaptureRefused: they cannot be captured; the current stream is what it was.
            OutOfMemoryError: the device's memory is full.
            ContextPoisoned: the device failed.
        """
        with self._on_stream():
            launch()  # compiles kernels and sizes workspaces, which a capture may not
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream(self._device)
        try:
            # Other threads call no driver, but if one did that would be no reason to refuse this thread's capture.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                launch()
        except RuntimeError as exc:
            torch.cuda.set_stream(before)
            self._end()
            if memory := _out_of_memory(exc):
                raise memory from exc
            quiesce(self._device)
            # The end of a capture that has failed raises once more, of something else.
            raise CaptureRefused(str(exc.__context__ or exc).partition("\n")[0]) from exc
        replay: Replay = graph.replay
        return replay

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Work of the block runs on the capture's stream, between what comes before and after it on the current one."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _end(self) -> None:
        """Have the allocator leave the pool, which it does itself unless the end of a capture raises."""
        with suppress(AttributeError, RuntimeError):  # no such function; or it has left the pool
            torch._C._cuda_endAllocateToPool(self._device.index or 0, self._pool)


def _out_of_memory(exc: BaseException | None) -> torch.OutOfMemoryError | None:
    """The error among those that led to ``exc`` that says that memory is full."""
    while exc is not None and not isinstance(exc, torch.OutOfMemoryError):
        exc = exc.__context__
    return exc
