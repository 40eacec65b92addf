"""SampleRow: how the next token of one sequence is to be chosen."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from .adjustments import Adjustments


@dataclass(frozen=True, slots=True)
class SampleRow:
    """What one row needs: its settings and its place in the random stream.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 is off. top_p: 1 is off. min_p: 0 is off.
        seed, index, position: counter of the random number (request seed, continuation, token position).
        banned: tokens that may not be chosen (stop tokens before ``min_tokens``).
        logprobs: 0 for none, else 1 + number of alternatives.
        adjustments: of its request, if it has any.
        output: as many of the tokens generated as they look at, but for the newest one; None before there is one.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    index: int
    position: int
    banned: tuple[int, ...] = ()
    logprobs: int = 0
    adjustments: Adjustments | None = None
    output: array[int] | None = None

    @property
    def filtered(self) -> bool:
        """Whether unlikely tokens are left out."""
        return bool(self.top_k or self.min_p or self.top_p < 1)

    @property
    def looks_back(self) -> bool:
        """Whether it matters which tokens came before."""
        return self.adjustments is not None and (self.adjustments.penalizes or bool(self.adjustments.bad_words))
