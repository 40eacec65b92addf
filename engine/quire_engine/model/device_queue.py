"""DeviceQueue: how a step's work reaches the device, and how the host sees that it is complete.

A queue does what it is given one after another. On a CPU work has ended when ``submit`` returns. A GPU's stream is
given launches and gets to them later; an event behind a step's last launch fires when all of it is complete.

``depth`` says how many steps may be in flight at a time: 1 where nothing runs beside the host, 2 where the host can
plan the next step while the device computes the last. What a step uses may be released once ``result`` has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from quire_engine.kv.attach import ContextPoisoned, quiesce

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Pending(Protocol[R_co]):
    """Work in flight."""

    def result(self) -> R_co:
        """What the work returned, once all of it is complete. Raises ContextPoisoned if the device failed."""
        ...


class DeviceQueue(Protocol):
    """One device's work of one engine, in order."""

    depth: int

    def submit(self, work: Callable[[], R]) -> Pending[R]:
        """Do ``work`` after all that was submitted before."""
        ...

    def close(self) -> None:
        """Return when nothing that was submitted runs any more. Raises ContextPoisoned if the device failed."""
        ...


def queue_of(device: torch.device) -> DeviceQueue:
    """The queue for an arena on ``device``."""
    return CudaQueue(device) if device.type == "cuda" else CpuQueue()


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """Work that had ended when ``submit`` returned."""

    value: R

    def result(self) -> R:
        """The value."""
        return self.value


class CpuQueue:
    """The caller's own thread."""

    depth = 1

    def submit(self, work: Callable[[], R]) -> Pending[R]:
        """Do ``work`` now."""
        return Done(work())

    def close(self) -> None:
        """Nothing runs between two calls."""


class CudaQueue:
    """The current stream of a GPU."""

    depth = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def submit(self, work: Callable[[], R]) -> Pending[R]:
        """Launch ``work``, which must not wait for the device, and mark its end with an event."""
        value = work()
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return StreamWork(value, event)

    def close(self) -> None:
        """Wait for all streams."""
        quiesce(self._device)


@dataclass(frozen=True, slots=True)
class StreamWork(Generic[R]):
    """Launches on a stream, complete when ``event`` has fired."""

    value: R
    event: torch.cuda.Event

    def result(self) -> R:
        """Wait for the event."""
        try:
            self.event.synchronize()
        except RuntimeError as exc:
            raise ContextPoisoned(str(exc).partition("\n")[0]) from exc
        return self.value
