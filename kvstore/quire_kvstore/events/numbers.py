"""Numbers: those of the batches of an event stream. They rise by one, from 0, and go on over restarts.

Routers rely on three things: the first batch ever has number 0, a higher number than the next one is a gap, and a lower
one is old. So a kvstore that starts again goes on where it ended: one that began anew at 0 would not be heard until it
had said as much as the one before. Numbers are promised to the disk by the thousand: one that was killed leaves a gap
to the next promise, which is a gap like any other to a reader.
"""

from __future__ import annotations

from collections.abc import Callable

AT_ONCE = 10_000


def _forget(_: int) -> None:
    """Promise nothing."""


class Numbers:
    """The next number of a batch, and what is promised of it.

    Args:
        first: a number that was never taken.
        promise: keeps a number from which on none was taken yet.
    """

    def __init__(self, first: int = 0, promise: Callable[[int], None] = _forget) -> None:
        self._next = self._promised = first
        self._promise = promise

    def take(self) -> int:
        """The next number."""
        if self._next == self._promised:
            self._promised += AT_ONCE
            self._promise(self._promised)
        number, self._next = self._next, self._next + 1
        return number

    def settle(self) -> None:
        """Give back what was promised and not taken: nothing more will be."""
        self._promised = self._next
        self._promise(self._next)
