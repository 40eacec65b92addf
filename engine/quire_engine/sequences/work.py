"""Work: what a sequence computes in one step."""

from __future__ import annotations

from dataclasses import dataclass

from .sequence import Sequence


@dataclass(slots=True)
class Work:
    """``count`` tokens of one sequence in this step."""

    sequence: Sequence
    count: int
