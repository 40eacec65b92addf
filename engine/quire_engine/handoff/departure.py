"""Departure: an engine that is to end, and the time that it has for that."""

from __future__ import annotations

import time


class Departure:
    """Not asked for at first; may be asked for in a signal handler.

    Attributes:
        asked: the engine is to end.
    """

    def __init__(self) -> None:
        self.asked = False
        self._until = 0.0
        self._begun = False

    def ask(self, within_s: float) -> None:
        """End when nothing is left to do, or in so many seconds."""
        self._until = time.monotonic() + within_s
        self.asked = True

    def begins(self) -> bool:
        """Whether it has been asked for; once."""
        begins, self._begun = self.asked and not self._begun, self.asked
        return begins

    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self._until
