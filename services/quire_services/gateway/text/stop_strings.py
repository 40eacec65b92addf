"""Stop strings: cut a growing text before the first stop string, or behind it, however the pieces fall.

The end of the text that could still become a stop string is held back; everything before it is safe to send.
Text may be looked at that is not shown: what a special token spells, for a stop string that spells it too.

Invariant: what was released, joined, is a prefix of the whole text but for what is not shown, and contains no stop
string that was looked for, unless as its end where stop strings are kept.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The stop strings of one continuation.

    Args:
        stops: what is looked for.
        kept: the stop string found is released, too.

    Attributes:
        found: the stop string that was found, if one was; nothing is released any more then.
    """

    def __init__(self, stops: Sequence[str], kept: bool = False) -> None:
        self._stops, self._kept = tuple(stops), kept
        self._held = ""
        self._shown = ""  # "1" for each character held that is shown, "0" for the others
        self.found: str | None = None

    @property
    def hit(self) -> bool:
        """Whether one was found."""
        return self.found is not None

    def push(self, piece: str, shown: bool = True) -> str:
        """Add text and return what can be sent."""
        if not self._stops:
            return piece if shown else ""
        text, marks = self._held + piece, self._shown + "01"[shown] * len(piece)
        places = [(at, at + len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            begin, behind, self.found = min(places)
            end = behind if self._kept else begin
        else:
            end = len(text) - max(_overlap(text, stop) for stop in self._stops)
        self._held, self._shown = ("", "") if places else (text[end:], marks[end:])
        return _shown(text[:end], marks)

    def flush(self) -> str:
        """The text held back, at the end of the continuation."""
        text, self._held = self._held, ""
        return _shown(text, self._shown)


def _shown(text: str, marks: str) -> str:
    if "0" not in marks:
        return text
    return "".join(character for character, mark in zip(text, marks, strict=False) if mark == "1")


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop`` without being all of it."""
    at = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while at >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at = text.find(stop[0], at + 1)
    return 0
