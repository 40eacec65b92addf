"""Stop strings: cut a growing text before the first stop string, however the pieces fall.

The end of the text that could still become a stop string is held back; everything before it is safe to send.
Invariant: what was released, joined, is a prefix of the whole text and contains no stop string that was looked for.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The stop strings of one continuation.

    Attributes:
        hit: a stop string was found; nothing is released any more.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, piece: str) -> str:
        """Add text and return what can be sent."""
        if not self._stops:
            return piece
        text = self._held + piece
        places = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if places:
            self.hit = True
            self._held = ""
            return text[: min(places)]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text held back, at the end of the continuation."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop`` without being all of it."""
    at = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while at >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at = text.find(stop[0], at + 1)
    return 0
