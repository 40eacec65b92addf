"""What ``quire serve`` shows a person: lines of progress on stdout, and on a terminal what it waits for meanwhile.

Where there is no terminal, what is waited for is a line of its own when nothing was said for a while, so that a log of
a long start shows that it goes on.

The processes of the stack log to the same terminal. So a text that is to pass is left with the cursor in front of it,
and the next line printed, by any of the processes, erases it first.
"""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from .standard_streams import print_line, print_now

ERASE_LINE = "\r\x1b[K"
BAR_CELLS = 30
SILENT_S = 10.0  # without a line, in a log, before what is waited for becomes one


class Screen:
    """Lines on a stream and, if that is a terminal, one text below them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._drawn = ""
        self._said_at = time.monotonic()

    def line(self, text: str) -> None:
        """A line that stays."""
        print_line(ERASE_LINE + text if self._terminal else text, self._out)
        self._drawn, self._said_at = "", time.monotonic()

    def passing(self, text: str, plain: str = "") -> None:
        """A text that stands until the next one or the next line; an empty one erases it. ``plain``: the same for a
        log."""
        if not self._terminal and plain and time.monotonic() - self._said_at >= SILENT_S:
            self.line(plain)
        if not self._terminal or text == self._drawn:
            return
        width = shutil.get_terminal_size().columns - 1  # two lines could not be erased
        print_now(f"{ERASE_LINE}{text[:width]}\r", self._out)
        self._drawn = text


def bar(share: float) -> str:
    """How much of something is done, 0 to 1."""
    full = int(share * BAR_CELLS)
    return f"[{'#' * full}{'.' * (BAR_CELLS - full)}] {share:4.0%}"
