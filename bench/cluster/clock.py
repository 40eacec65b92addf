"""VirtualClock: what happens is an action at a time; of two at the same time the earlier one entered goes first.

Nothing here draws or reads a real clock, so that one seed gives one run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

Action = Callable[..., None]


class VirtualClock:
    """Virtual seconds.

    Attributes:
        now: what time it is.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Action, tuple[Any, ...]]] = []

    def at(self, time: float, action: Action, *arguments: Any) -> None:
        """Let something happen at a time, or now if that is over."""
        heapq.heappush(self._events, (max(time, self.now), next(self._order), action, arguments))

    def run(self, end: float) -> None:
        """Let happen what happens until ``end``; what would happen later stays."""
        while self._events and self._events[0][0] <= end:
            self.now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
        self.now = end
