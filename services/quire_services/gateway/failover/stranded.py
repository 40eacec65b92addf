"""Stranded: generations that an engine no longer works on, and which wait for another.

Each waits for a stated time at most while there is no engine. Nothing is sent of it meanwhile but signs of life, which
its stream has of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from quire_services.gateway.generations import Generation
from quire_services.gateway.http.errors import unavailable


class Stranded:
    """The generations that wait at one gateway, the oldest first.

    Args:
        hold_s: how long each waits at most.
        hopeful: whether there is an engine, so that it waits for its turn.
    """

    def __init__(self, hold_s: float, hopeful: Callable[[], bool]) -> None:
        self._hold_s, self._hopeful = hold_s, hopeful
        self._waiting: dict[Generation, asyncio.TimerHandle] = {}

    def __iter__(self) -> Iterator[Generation]:
        return iter([generation for generation in self._waiting if generation.open])  # others' clients have left

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, generation: Generation) -> None:
        """Let it wait."""
        if generation not in self._waiting:
            self._start(generation)

    def discard(self, generation: Generation) -> None:
        """It waits no longer."""
        if timer := self._waiting.pop(generation, None):
            timer.cancel()

    def _start(self, generation: Generation) -> None:
        timer = asyncio.get_running_loop().call_later(self._hold_s, self._over, generation)
        self._waiting[generation] = timer

    def _over(self, generation: Generation) -> None:
        if generation.open and self._hopeful():
            self._start(generation)
            return
        del self._waiting[generation]
        if generation.open:
            within = f", and none came within {self._hold_s:g} seconds" if self._hold_s else ""
            generation.call.fail(unavailable(f"the engine that worked on this request is gone{within}"))
