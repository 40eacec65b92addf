"""Marks: special tokens in a text, told apart from text that only spells them.

While an answer is parsed each special token of the format is one character that Unicode will never assign, and the
format's literals have these characters too. So a model that quotes ``[TOOL_CALLS]`` letter by letter calls no tool,
and the real token is found wherever it stands. Everything that leaves the parser is spelled out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from quire_services.gateway.tools.formats.tool_format import ToolFormat

_FIRST, _COUNT = 0xFDD0, 32  # noncharacters (Unicode, 23.7)
_ALL = {_FIRST + place: "\ufffd" for place in range(_COUNT)}


class Marks:
    """The special tokens that a format's literals spell.

    Args:
        literals: of the format.
        specials: spellings of the tokenizer's special tokens.
    """

    def __init__(self, literals: Iterable[str], specials: Iterable[str]) -> None:
        text = "\n".join(literals)
        used = sorted((special for special in set(specials) if special and special in text), key=len, reverse=True)
        if len(used) > _COUNT:
            raise ValueError(f"a format with {len(used)} special tokens")
        self._characters = {special: chr(_FIRST + place) for place, special in enumerate(used)}
        self._spellings = {character: special for special, character in self._characters.items()}
        self._special = re.compile("|".join(map(re.escape, used)) or r"(?!)")
        self._mark = re.compile(f"[{chr(_FIRST)}-{chr(_FIRST + _COUNT - 1)}]")

    def format(self, written: ToolFormat) -> ToolFormat:
        """The format with marks in its literals."""
        return written.spelled(lambda literal: self._special.sub(lambda found: self._characters[found[0]], literal))

    def special(self, token: str) -> str:
        """The mark of a special token, empty for one that the format does not know."""
        return self._characters.get(token, "")

    def plain(self, text: str) -> str:
        """A text without marks."""
        return text.translate(_ALL) if self._mark.search(text) else text

    def spelled(self, text: str) -> str:
        """A text with its marks spelled out."""
        return self._mark.sub(lambda found: self._spellings.get(found[0], "\ufffd"), text)


@lru_cache(maxsize=64)
def marked_format(written: ToolFormat, specials: frozenset[str]) -> tuple[Marks, ToolFormat]:
    """A format with marks for the special tokens that it spells. (Every answer of a model needs the same.)"""
    marks = Marks(written.literals(), specials)
    return marks, marks.format(written)
