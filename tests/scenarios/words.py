"""The words of a scenario's line: a verb, names of sessions and sequences, and options. Nothing may be left over."""

from __future__ import annotations

import re
from dataclasses import dataclass

ARROW = " -> "
_PART = re.compile(r"(\d+)([a-z]?)")


class ScenarioError(Exception):
    """A line that is not of the language; its message begins with file and line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its place in the file, the left side as it is written, and the expected text after the arrow."""

    number: int
    left: str
    right: str

    @property
    def is_item(self) -> bool:
        """Whether it is an item of the step above it."""
        return self.left.startswith(" ")

    @property
    def says_something(self) -> bool:
        """Whether it is more than a comment or nothing."""
        return bool(self.left.strip()) and not self.left.startswith("#")


def lines_of(text: str) -> list[Line]:
    """The lines of a scenario. Raises ScenarioError unless it begins with what it promises."""
    if not text.startswith("# "):
        raise ScenarioError("1: a scenario begins with a comment: what it promises")
    found = []
    for number, written in enumerate(text.splitlines(), 1):
        left, arrow, right = written.partition(ARROW) if not written.startswith("#") else (written, "", "")
        if arrow and not right.strip():
            raise ScenarioError(f"{number}: nothing stands behind the arrow")
        found.append(Line(number, left.rstrip(), right.strip()))
    return found


def as_text(lines: list[Line]) -> str:
    """The lines as a file, with all arrows in one column."""
    column = max((len(line.left) for line in lines if line.right), default=0)
    return "".join((f"{line.left:{column}}{ARROW}{line.right}" if line.right else line.left) + "\n" for line in lines)


class Words:
    """What stands on the left side, taken out word by word; ``end`` complains about the rest."""

    def __init__(self, left: str) -> None:
        self.verb, *rest = left.split()
        self._names = [word for word in rest if "=" not in word]
        options = [word.split("=", 1) for word in rest if "=" in word]
        self._options = dict(options)
        if len(self._options) < len(options):
            raise ScenarioError("an option stands twice")

    @property
    def first(self) -> str:
        """The name that comes next; an error without one."""
        if not self._names:
            raise ScenarioError(f"{self.verb}: a name is missing")
        return self._names[0]

    def name(self, what: str) -> str:
        """The next name; an error without one."""
        if not self._names:
            raise ScenarioError(f"{self.verb}: {what} is missing")
        return self._names.pop(0)

    def names(self, what: str) -> list[str]:
        """All names that are left, at least one."""
        return [self.name(what), *self.rest()]

    def rest(self) -> list[str]:
        """All names that are left, if any."""
        names, self._names = self._names, []
        return names

    def flag(self, name: str) -> bool:
        """Whether a name stands there."""
        if name in self._names:
            self._names.remove(name)
            return True
        return False

    def option(self, name: str, default: str | None = None) -> str:
        """The text of an option; an error without one that has no default."""
        if name not in self._options and default is None:
            raise ScenarioError(f"{self.verb}: {name}= is missing")
        return self._options.pop(name, default or "")

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        text = self.option(name, None if default is None else str(default))
        return whole(text, f"{name}=")

    def numbers(self, name: str) -> list[int]:
        """Whole numbers with commas between them."""
        return [whole(text, f"{name}=") for text in self.option(name).split(",")]

    def time(self, name: str, default: str | None = None) -> int:
        """A time in ms."""
        return milliseconds(self.option(name, default))

    def end(self) -> None:
        """Complain about words that the verb does not know."""
        left = [*self._names, *(f"{name}=" for name in self._options)]
        if left:
            raise ScenarioError(f"{self.verb}: what is {left[0]!r}?")


def whole(text: str, what: str) -> int:
    """A whole number."""
    if not text.isdecimal():
        raise ScenarioError(f"{what}: a number, not {text!r}")
    return int(text)


def milliseconds(text: str) -> int:
    """``500ms`` or ``5s``."""
    found = re.fullmatch(r"(\d+)(ms|s)", text)
    if not found:
        raise ScenarioError(f"a time is written 500ms or 5s, not {text!r}")
    return int(found[1]) * (1000 if found[2] == "s" else 1)


def tokens(text: str) -> list[int]:
    """``17``: the beginning of the one text that all share; ``16+9x``: 16 tokens of it, then 9 of the text ``x``."""
    found: list[int] = []
    for part in text.split("+"):
        match = _PART.fullmatch(part)
        if not match:
            raise ScenarioError(f"tokens are written 17, 9x or 16+9x, not {text!r}")
        found += [ord(match[2] or "_") * 1000 + len(found) + i for i in range(int(match[1]))]
    return found
