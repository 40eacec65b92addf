"""Times on the device, and the ceilings that they are held against.

On a GPU a case is captured as a CUDA graph that runs it once on each of its inputs; replays are timed with events and
divided by the number of inputs. Inputs together are larger than the L2 cache, so none finds its data there. A case that
cannot be captured is timed launch by launch. The median over the replays counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from quire_engine.model.graphs import CaptureRefused, CudaCapture

REPLAYS = 7
TARGET_MS = 40.0  # of one case


def milliseconds(runs: Sequence[Callable[[], Any]], device: torch.device) -> tuple[float, str]:
    """Median time of one of ``runs``, the same work on different inputs; and how it was taken."""
    if device.type == "cpu":
        began = time.perf_counter()
        runs[0]()
        return 1000 * (time.perf_counter() - began), "interpreter"
    for run in runs[:2]:
        run()  # compiles, and grows scratch memory
    torch.cuda.synchronize()
    replay, how = captured(runs, device)
    first = _timed(replay)
    times = [_timed(replay) for _ in range(max(1, min(REPLAYS, int(TARGET_MS / max(first, 1e-3)))))]
    return statistics.median(times) / len(runs), how


def captured(runs: Sequence[Callable[[], Any]], device: torch.device) -> tuple[Callable[[], Any], str]:
    """What does all of ``runs``: a graph's replay, or, where they cannot be captured, their calls; and which it is.

    Raises ContextPoisoned if the device failed, and OutOfMemoryError.
    """

    def launch() -> None:
        for run in runs:
            run()

    try:
        replay = _capture(device)(launch)
    except CaptureRefused as exc:
        return launch, f"launch by launch: {exc}"[:100]
    replay()
    return replay, "graph"


@cache
def _capture(device: torch.device) -> CudaCapture:
    """The engine's own, one for all cases: over one stream, and a capture that fails leaves that stream."""
    return CudaCapture(device)


def event() -> torch.cuda.Event:
    """An event that keeps its time."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _timed(replay: Callable[[], Any]) -> float:
    begin, end = event(), event()
    begin.record()
    replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def copy_ceiling(memory: torch.Tensor) -> float:
    """Bytes a second of a copy within the device, read and written bytes counted. ``memory``: flat."""
    half = memory.numel() // 2
    source, target = memory[:half], memory[half : 2 * half]
    ms, _ = milliseconds([lambda: target.copy_(source)], memory.device)
    return 2 * half * memory.element_size() / ms * 1000


def matmul_ceiling(device: torch.device, size: int) -> float:
    """FLOP a second of a square bf16 matrix product on random data."""
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    ms, _ = milliseconds([lambda: torch.mm(a, b, out=out)], device)
    return 2 * size**3 / ms * 1000
