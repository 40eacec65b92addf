"""A stand-in of ``torch.cuda`` where there is no GPU: the current stream, captures, and the pool that they fill.

It does what torch 2.6 to 2.13 do in ``torch/cuda/graphs.py``, ``CUDAGraph.cpp`` and ``CUDACachingAllocator.cpp``, also
where that is unfortunate:

- ``graph.__exit__`` ends the capture before it restores the stream, so an end that raises leaves the stream;
- an end that raises leaves the allocator in the pool until ``_cuda_endAllocateToPool``, which raises without one;
- a capture in which a call was not permitted is invalid: its end raises another error than that call did;
- a graph may share another one's memory only on the same stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

NOT_PERMITTED = "CUDA error: operation not permitted when stream is capturing"
INVALIDATED = "CUDA error: operation failed due to a previous error during capture"


@dataclass(eq=False)
class Stream:
    """A stream, and the streams that it waits for."""

    name: str
    waits_for: list[Stream] = field(default_factory=list)

    def wait_stream(self, other: Stream) -> None:
        self.waits_for.append(other)


@dataclass(eq=False)
class Graph:
    """``torch.cuda.CUDAGraph``: what was launched while it was captured."""

    cuda: CudaStandIn
    launches: list[Callable[[], None]] = field(default_factory=list)

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert self.cuda.capturing is None, "one capture at a time"
        assert capture_error_mode == "thread_local"
        self.cuda.capturing, self.cuda.valid = self, True
        self.cuda.recording.append(pool)

    def capture_end(self) -> None:
        cuda = self.cuda
        assert cuda.capturing is self
        cuda.capturing = None  # the driver has ended it, whatever it says of it
        if not cuda.valid:
            raise torch.AcceleratorError(INVALIDATED)
        cuda.recording.pop()

    def replay(self) -> None:
        assert self.cuda.capturing is None
        for launch in self.launches:
            launch()


@dataclass(eq=False)
class CudaStandIn:
    """Attributes:
    current: the current stream.
    capturing, valid: the graph that is being captured, and whether it can be.
    recording: pools that the allocator fills.
    streams: made so far. captured: stream and pool of each capture that was begun.
    failed: the device has failed: every synchronisation raises.
    """

    current: Stream = field(default_factory=lambda: Stream("default"))
    capturing: Graph | None = None
    valid: bool = True
    recording: list[Any] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    captured: list[tuple[Stream, Any]] = field(default_factory=list)
    pools: int = 0
    failed: bool = False

    def launch(self, work: Callable[[], None]) -> None:
        """A kernel: done at once, or noted in the graph that is being captured."""
        if self.capturing is None:
            work()
        elif self.valid:
            self.capturing.launches.append(work)
        else:
            raise torch.AcceleratorError(INVALIDATED)

    def wait(self) -> None:
        """What a capture does not permit: the host waits for the device."""
        if self.capturing is not None:
            self.valid = False
            raise torch.AcceleratorError(NOT_PERMITTED)
        if self.failed:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def install(self, monkeypatch: pytest.MonkeyPatch) -> CudaStandIn:
        """Put it in the place of what the engine uses."""

        def make_stream(_device: Any = None) -> Stream:
            self.streams.append(Stream(f"side {len(self.streams)}"))
            return self.streams[-1]

        def set_stream(stream: Stream) -> None:
            self.current = stream

        def make_pool() -> tuple[int, int]:
            self.pools += 1
            return (0, self.pools)

        def end_allocate(_device: int, pool: Any) -> None:
            if pool not in self.recording:
                raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
            self.recording.remove(pool)

        @contextmanager
        def on(stream: Stream) -> Iterator[None]:
            before, self.current = self.current, stream
            try:
                yield
            finally:
                self.current = before

        cuda = self

        class Capturing:
            """``torch.cuda.graph``."""

            def __init__(self, graph: Graph, pool: Any, stream: Stream, capture_error_mode: str) -> None:
                self.graph, self.pool, self.mode = graph, pool, capture_error_mode
                self.stream, self.before = stream, cuda.current

            def __enter__(self) -> None:
                cuda.wait()  # torch synchronises
                self.before, cuda.current = cuda.current, self.stream
                cuda.captured.append((self.stream, self.pool))
                self.graph.capture_begin(self.pool, self.mode)

            def __exit__(self, *_: object) -> None:
                self.graph.capture_end()
                cuda.current = self.before

        replaced = {
            "Stream": make_stream,
            "current_stream": lambda _device=None: self.current,
            "set_stream": set_stream,
            "stream": on,
            "graph_pool_handle": make_pool,
            "CUDAGraph": lambda: Graph(self),
            "graph": Capturing,
            "synchronize": lambda _device=None: self.wait(),
        }
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_allocate, raising=False)
        return self
