"""Lark rules: the text of a grammar in llguidance's variant of Lark, written rule by rule.

A special token is one terminal of its own there and no text ever matches it, so literals are taken apart into text and
special tokens. Whitespace between the words of a literal and between the tokens of JSON is either any, so that a model
may keep its habits, or as formats and templates write it, so that much of a call has one continuation only. A model may
write either in the tokens it likes, engines see to that: an answer that is as it must be is, token by token, what it
would have been without a grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

TEXT = "TEXT"
GAP = "GAP"
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"} | {character: f"\\{character}" for character in r".^$*+?{}[]|()\/"}
_ANY_SPACE = r"[ \t\r\n]{0,8}"  # bounded: a model may write nothing else for ever
_EXACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as templates write JSON
_LOOSE = {"whitespace_flexible": True, "whitespace_pattern": _ANY_SPACE}
_AFTER = {",": ", ", ":": ": "}  # what JSON's tokens are with the space that templates write behind them


class LarkRules:
    """A grammar under construction.

    Args:
        specials: spelling of each special token -> its id.
        loose: whitespace between words and tokens may be any.
    """

    def __init__(self, specials: Mapping[str, int], loose: bool = False) -> None:
        self._loose = loose
        self._specials = {spelling: token for spelling, token in specials.items() if spelling}
        longest = sorted(self._specials, key=len, reverse=True)
        self._special = re.compile("(" + ("|".join(map(re.escape, longest)) or r"(?!)") + ")")
        self._named: dict[str, str] = {}  # what a rule or terminal says -> its name
        self._lines = [f"{TEXT}: /(?s:.*)/", f"{GAP}: /{_ANY_SPACE}/"]

    def text(self, start: str) -> str:
        """The grammar that begins with this expression."""
        return "\n".join([*self._lines, f"start: {start}", ""])

    def rule(self, expression: str, attributes: str = "") -> str:
        """Name of a rule that says this."""
        return self._name("r", attributes, expression)

    def terminal(self, expression: str) -> str:
        """Name of a terminal that says this."""
        return self._name("T", "", expression)

    def _name(self, kind: str, attributes: str, expression: str) -> str:
        said = f"{kind}{attributes}: {expression}"
        if said not in self._named:
            self._named[said] = f"{kind}{len(self._named)}"
            self._lines.append(f"{self._named[said]}{attributes}: {expression}")
        return self._named[said]

    def json(self, schema: Any, lenient: bool = False, whitespace: str = "") -> str:
        """Name of a rule for values of a schema.

        Args:
            lenient: what llguidance does not know in it says nothing.
            whitespace: a regular expression for what may stand between tokens, if that is not as elsewhere.
        """
        said = schema if isinstance(schema, Mapping) else {} if schema else {"enum": []}
        spaces = {"whitespace_flexible": True, "whitespace_pattern": whitespace} if whitespace else None
        spaces = spaces or (_LOOSE if self._loose else _EXACT)
        options = {**spaces, "lenient": lenient, **(said.get("x-guidance") or {})}
        return self.rule("%json " + json.dumps({**said, "x-guidance": options}))

    def literal(self, text: str) -> str:
        """An expression for a literal, empty for an empty one."""
        if not self._loose:
            return self.exact(text)
        return " ".join(GAP if part.isspace() else self.exact(part) for part in re.split(r"(\s+)", text) if part)

    def exact(self, text: str) -> str:
        """An expression for a literal with its whitespace as it is."""
        parts = [part for part in self._special.split(text) if part]
        return " ".join(self._token(part) or lark_string(part) for part in parts)

    def tokens(self, *tokens: str) -> str:
        """An expression for tokens of JSON."""
        if not self._loose:
            return self.exact("".join(_AFTER.get(token, token) for token in tokens))
        return " ".join(f"{GAP} {lark_string(token)}" for token in tokens) + f" {GAP}"

    def until(self, literal: str, before: str = TEXT) -> str:
        """An expression for text up to the first place where a literal stands, and the literal."""
        first, *rest = [part for part in self._special.split(literal) if part]
        if token := self._token(first):
            return " ".join(part for part in (before, token, self.literal("".join(rest))) if part)
        word = re.match(r"\s*\S+|\s+", first)
        assert word
        head = self.rule(f"{before} {lark_string(word[0])}", "[lazy]")
        return " ".join(part for part in (head, self.literal(literal[word.end() :])) if part)

    @property
    def rest(self) -> str:
        """An expression for what a model may leave behind the last word."""
        return GAP if self._loose else ""

    def is_token(self, literal: str) -> bool:
        """Whether a literal begins with a special token."""
        return bool(self._special.match(literal))

    def _token(self, part: str) -> str:
        return f"<[{self._specials[part]}]>" if part in self._specials else ""


def lark_string(text: str) -> str:
    """A text as a string of the grammar."""
    return json.dumps(text, ensure_ascii=False)


def pattern(text: str) -> str:
    """A text as a regular expression that matches only it."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def without(start: str) -> str:
    """A terminal's expression for text that does not begin with this regular expression."""
    return rf"/(?s:.*)/ & ~/\s*{start}(?s:.*)/"
