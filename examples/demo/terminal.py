"""The demo's terminal: headings, colours where there are some, and text that fits the line."""

from __future__ import annotations

import os
import sys
import textwrap

WIDTH = 110
_COLOURS = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _in(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if _COLOURS else text


def bold(text: str) -> str:
    """A heading of a table."""
    return _in("1", text)


def dim(text: str) -> str:
    """Something in the background."""
    return _in("2", text)


def good(text: str) -> str:
    """A fact that holds."""
    return _in("32", text)


def bad(text: str) -> str:
    """A fact that does not."""
    return _in("1;31", text)


def title(text: str) -> None:
    """Say what comes next."""
    print(f"\n{bold(text)}", flush=True)


def progress(line: str) -> None:
    """What goes on meanwhile."""
    print(dim(f"  {line}"), flush=True)


def indented(text: str, margin: str) -> str:
    """The text behind a margin, its lines as short as the terminal wants them; its own line breaks stay."""
    lines = [textwrap.wrap(line, WIDTH - len(margin)) for line in text.splitlines()]
    return "\n".join(margin + line for wrapped in lines for line in wrapped)


class Live:
    """Prints pieces of a text as they come, in lines behind a margin."""

    def __init__(self, margin: str) -> None:
        self._margin = margin
        self._column: int | None = None  # none: the next piece begins a line

    def __call__(self, piece: str) -> None:
        """One piece; a line ends where a word begins."""
        if self._column is not None and self._column + len(piece) > WIDTH and piece[:1].isspace():
            print()
            self._column = None
        if self._column is None:
            print(self._margin, end="")
            self._column, piece = len(self._margin), piece.lstrip()
        print(dim(piece), end="", flush=True)
        self._column = None if piece.endswith("\n") else self._column + len(piece)
