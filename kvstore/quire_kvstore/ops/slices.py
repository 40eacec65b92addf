"""Slices: a long op is done in slices, and other requests are answered between them.

An op that may be long is a generator: it yields where others may go on, and returns its result. Its caller resumes
it later (``dispatch``), or at once (:func:`finish`). Evicting costs some microseconds a block, so a prompt of 100,000
tokens in a full pool would hold up all others for tens of milliseconds; giving up a table, sealing it and finding a hit
cost less, and a request may name many of them. Hence:

- an allocate takes its hit, and its claims, at once; then the blocks that it lacks as they become free, one slice of
  evictions after the other. It has them in its table from then on: no other sequence can get them, its session's end
  gives them back, and if another got what it still needs, it gives all back itself and says "no space";
- everything else is long only by being many: it yields between two items, each of which is as atomic as ever.

Invariants: at each yield those of the store hold; nothing is kept across a yield but what the ledger of the session
shows, so a generator that is never resumed loses nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import IntEnum
from typing import TypeVar

from quire_kvstore.state import State

Result = TypeVar("Result")
Slices = Generator[bool, None, Result]  # it yields whether it waits, and need not be resumed at once


class Work(IntEnum):
    """What is done with blocks: how many of them take about as long as one that is evicted."""

    EVICT = 1
    SEAL = 4
    LOOK_UP = 16
    RELEASE = 32


def finish(slices: Slices[Result]) -> Result:
    """Do all the slices of an op, one after the other."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: Result = end.value
            return result


class Pace:
    """How much of its slice an op has used up."""

    def __init__(self, state: State) -> None:
        self._slice = state.slice_blocks
        self._spent = 0.0

    def spend(self, blocks: int, work: Work) -> None:
        """This was done with so many blocks."""
        self._spent += blocks / (work * self._slice)

    @property
    def over(self) -> bool:
        """Whether the slice is used up."""
        return self._spent >= 1

    def rest(self) -> Slices[None]:
        """Let others go on if the slice is used up; then another one begins."""
        if self.over:
            yield False
            self._spent = 0.0
