"""Key presses on a terminal: one at a time, without Enter, and the terminal as it was afterwards."""

from __future__ import annotations

import os
import select
import termios
import tty
from typing import Any, Self, TextIO


class KeyPresses:
    """What is typed while this is open; on anything but a terminal nothing ever is."""

    def __init__(self, stream: TextIO) -> None:
        self._fd = stream.fileno() if stream.isatty() else -1
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        if self._fd >= 0:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)  # Ctrl-C still interrupts
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def within(self, seconds: float) -> str:
        """What is typed within that time; empty if nothing is. Raises EOFError when the terminal has gone."""
        ready, _, _ = select.select([self._fd] if self._fd >= 0 else [], [], [], seconds)
        if not ready:
            return ""
        try:
            typed = os.read(self._fd, 64)
        except OSError:
            typed = b""
        if not typed:
            raise EOFError
        return typed.decode(errors="replace")
