"""A vocabulary of letters for the tiny models, whose tokens have no text of their own, and random grammars over it.

A random grammar is made twice from the same tree: as text for llguidance and as a pattern for ``re``, which is what
answers are held against.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from bench.models.tiny import SPECIAL

EOS = SPECIAL.index("<eos>")
LETTERS = [chr(code) for code in range(0x20, 0x7F)]
PIECES = ["\n", *(a + b for a in "abcdefg" for b in "abcdefg"), "true", "false", '":', '",', "123", "é"]


class Letters:
    """Special tokens, single printable characters, and some pieces of more; the rest is empty."""

    def __init__(self, size: int, ends: tuple[int, ...] = (EOS,)) -> None:
        spelled = [*SPECIAL, *LETTERS, *PIECES]
        self.spelled = [text.encode() for text in spelled] + [b""] * (size - len(spelled))
        self.special, self.ends = list(range(len(SPECIAL))), list(ends)

    def encode(self, text: str) -> list[int]:
        """A text, a token for each character, the unknown one for others."""
        return [self.spelled.index(char.encode()) if char.encode() in self.spelled else 0 for char in text]

    def text(self, tokens: list[int]) -> str:
        """What tokens spell, without those that end an answer."""
        return b"".join(self.spelled[token] for token in tokens if token not in self.ends).decode()


@dataclass(frozen=True)
class RandomGrammar:
    """The same language in two notations."""

    lark: str
    pattern: re.Pattern[str]


def random_grammar(seed: int) -> RandomGrammar:
    """A finite language of texts of up to some hundred characters."""
    lark, pattern = _node(random.Random(seed), 3)
    return RandomGrammar(f"start: {lark}", re.compile(pattern))


def _node(chance: random.Random, depth: int) -> tuple[str, str]:
    kind = chance.choice(["literal", "class"] if not depth else ["sequence", "choice", "optional", "repeat", "class"])
    if kind == "literal":
        text = "".join(chance.choice("abcdefg:, 019") for _ in range(chance.randint(1, 6)))
        return f'"{text}"', re.escape(text)
    if kind == "class":
        letters, least = chance.choice(["[a-d]", "[0-9]", "[x-z ]", "[^a-y]"]), chance.randint(0, 2)
        pattern = f"{letters}{{{least},{least + chance.randint(1, 4)}}}"
        return f"/{pattern}/", pattern
    parts = [_node(chance, depth - 1) for _ in range(chance.randint(2, 3))]
    if kind == "sequence":
        return f"({' '.join(lark for lark, _ in parts)})", f"(?:{''.join(pattern for _, pattern in parts)})"
    if kind == "choice":
        return f"({' | '.join(lark for lark, _ in parts)})", f"(?:{'|'.join(pattern for _, pattern in parts)})"
    lark, pattern = parts[0]
    times = "{0,1}" if kind == "optional" else f"{{{chance.randint(0, 2)},{chance.randint(3, 4)}}}"
    return f"({lark}){times}", f"(?:{pattern}){times}"
