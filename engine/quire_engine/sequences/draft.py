"""Draft: tokens that will probably be a sequence's next ones, computed in one step with the last that it has.

A token is drawn behind each of them, too. As long as what is drawn is what was drafted, the next place's token counts
as well; the first that differs is taken, and all behind it is dropped.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens drafted for one sequence.

    Attributes:
        first: the position of the first of them.
        tokens: at least one.
        after: the token before, as it was foreseen while it was coming; -1 where it was known.
    """

    first: int
    tokens: tuple[int, ...]
    after: int = -1

    def holds(self, known: Sequence[int]) -> bool:
        """Whether it may still come true behind the tokens that a sequence has by now."""
        return self.after < 0 or len(known) < self.first or known[self.first - 1] == self.after

    def cut(self, most: int) -> Draft | None:
        """Its first tokens; None for none of them."""
        return Draft(self.first, self.tokens[:most], self.after) if most > 0 else None

    def behind(self, known: int, place: int) -> array[int]:
        """What is foreseen behind the first ``known`` tokens up to the ``place`` first drafted ones."""
        return array("I", [self.after] * (self.first - known) + list(self.tokens[:place]))
