"""Text source: text that comes in pieces, read by generators that pause where they need the next piece.

So a parser is written as if all text were there. Each ``yield`` of a generator means "more text, please"; the one who
drives it pushes a piece or ends the source, and goes on with ``next``.

Invariant: what a reader returns depends on the text alone, not on its pieces.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

_T = TypeVar("_T")
Reading = Generator[None, None, _T]
SPACE = " \t\r\n"


class TextSource:
    """The text that is not yet read.

    Attributes:
        text: what is kept.
        at: place of the next character in it.
        ended: there will be no more.
        held: text before ``at`` is kept, because a reader may go back.
        starved: a reader has asked for more than there is.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self.held = False
        self.starved = False

    def push(self, piece: str) -> None:
        """Add a piece."""
        if self.at and not self.held:
            self.text, self.at = self.text[self.at :], 0
        self.text += piece

    def more(self) -> Reading[bool]:
        """Wait for a piece; False at the end."""
        if self.ended:
            self.starved = True
            return False
        yield
        return True

    def peek(self) -> Reading[str]:
        """The next character, empty at the end."""
        while self.at >= len(self.text):
            if not (yield from self.more()):
                return ""
        return self.text[self.at]

    def drop(self) -> None:
        """Go to the end of what there is."""
        self.at, self.held = len(self.text), False

    def skip_space(self) -> Reading[None]:
        """Go to the next character that is no whitespace."""
        while (yield from self.peek()) in tuple(SPACE):
            self.at += 1

    def word(self, word: str) -> Reading[bool]:
        """Read exactly this; nothing is read if it is not there."""
        while len(self.text) - self.at < len(word):
            if not word.startswith(self.text[self.at :]) or not (yield from self.more()):
                return False
        if not self.text.startswith(word, self.at):
            return False
        self.at += len(word)
        return True

    def sees(self, word: str) -> Reading[bool]:
        """Whether exactly this comes next."""
        begin, held = self.at, self.held
        self.held = True
        found = yield from self.word(word)
        self.at, self.held = begin, held
        return found

    def literal(self, literal: str) -> Reading[bool]:
        """Read a literal of a format, with any whitespace where it has some (but at its end). If it is not there,
        nothing is read."""
        begin, held = self.at, self.held
        self.held = True
        for place, word in enumerate(literal.split()):
            if place or literal[0] in SPACE:
                yield from self.skip_space()
            if not (yield from self.word(word)):
                self.at, self.held = begin, held
                return False
        self.held = held
        return True

    def before(self, word: str, most: int) -> Reading[str]:
        """Characters of a line up to ``word``, which is not read, at most so many; empty if it does not come."""
        begin, held, found = self.at, self.held, ""
        self.held = True
        while self.at - begin < most and (yield from self.peek()) not in ("", "\n"):
            if (yield from self.sees(word)):
                found = self.text[begin : self.at]
                break
            self.at += 1
        self.at, self.held = begin + len(found), held
        return found

    def run(self, stops: str, most: int) -> Reading[str]:
        """Characters up to one of ``stops`` or to whitespace, at most so many."""
        begin, held = self.at, self.held
        self.held = True
        while self.at - begin < most:
            character = yield from self.peek()
            if not character or character in stops or character in SPACE:
                break
            self.at += 1
        self.held = held
        return self.text[begin : self.at]


def pending(text: str, at: int, words: tuple[str, ...]) -> int:
    """Where the end of ``text`` begins that may become one of ``words``; its length if there is no such end."""
    longest = max(map(len, words), default=0) - 1
    for begin in range(max(at, len(text) - longest), len(text)):
        end = text[begin:]
        if any(len(end) < len(word) and word.startswith(end) for word in words):
            return begin
    return len(text)
