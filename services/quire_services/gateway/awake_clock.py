"""Awake time: a clock that stands still while the loop does.

Silence of others is measured with it. When the loop has been held up - by the machine, a suspended laptop, a stopped
process - what others said meanwhile lies unread in their sockets: by the clock on the wall they have been silent, but
it was this process that did not listen.
"""

from __future__ import annotations

import asyncio
import time

import structlog

TICK_S = 0.25
STALL_S = 1.0
log = structlog.get_logger()


class AwakeClock:
    """Seconds during which the loop ran. Without ``run`` it never stands still."""

    def __init__(self) -> None:
        self._asleep = 0.0
        self._ticked: float | None = None

    def now(self) -> float:
        """Seconds since some moment; at most two ticks further than at the last."""
        wall = time.monotonic()
        if self._ticked is not None:
            wall = min(wall, self._ticked + 2 * TICK_S)
        return wall - self._asleep

    async def run(self) -> None:
        """Tick until cancelled; say when the loop stood still."""
        self._ticked = time.monotonic()
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self._tick(time.monotonic())
        finally:
            self._ticked = None

    def _tick(self, wall: float) -> None:
        assert self._ticked is not None
        stood = wall - self._ticked - 2 * TICK_S
        if stood > 0:
            self._asleep += stood
            if stood > STALL_S:
                log.warning("loop_stalled", seconds=round(stood, 1))
        self._ticked = wall


clock = AwakeClock()  # of this process, which has one loop
