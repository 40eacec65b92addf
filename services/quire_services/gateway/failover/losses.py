"""Losses: engines whose connection has ended, the last ones, and what they carried."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from quire_services.gateway.link.engine import Engine

MOST_LOSSES = 64


@dataclass(frozen=True, slots=True)
class Loss:
    """One engine that went. ``continuations``: what it carried; ``expected``: it was to leave; ``at``: Unix time."""

    engine: str
    pid: int
    continuations: int
    expected: bool
    at: float = field(default_factory=time.time)


class Losses:
    """The last of them. ``count``: of all."""

    def __init__(self) -> None:
        self.last = deque[Loss](maxlen=MOST_LOSSES)
        self.count = 0

    def add(self, engine: Engine) -> None:
        """An engine is gone; what it carries is still in it."""
        carried = sum(len(attempt.open) for attempt in engine.attempts.values())
        expected = engine.drained or (engine.load is not None and engine.load.leaving)
        self.last.append(Loss(engine.hello.engine, engine.hello.pid, carried, expected))
        self.count += 1

    def since(self, count: int) -> list[Loss]:
        """Those that are kept of what came after the first ``count``."""
        return list(self.last)[max(0, len(self.last) - (self.count - count)) :]
