"""What gangs need of the batch and of what takes answers away: the scheduler and the outbox, which know no beams."""

from __future__ import annotations

from typing import Protocol

from quire_engine.sequences.sequence import Sequence
from quire_proto.gateway_link import Output


class RunningBatch(Protocol):
    """Where beams run."""

    running: list[Sequence]

    def joined(self, sequence: Sequence) -> None:
        """A forked sequence runs at once."""
        ...

    def dropped(self, sequence: Sequence) -> None:
        """One of a gang that goes on runs no more."""
        ...

    def remove(self, sequence: Sequence) -> None:
        """The sequence finished."""
        ...

    def grown(self) -> None:
        """A running sequence has more than one token to compute."""
        ...


class Answers(Protocol):
    """Where what a search found goes."""

    counters: dict[str, int]

    def put(self, output: Output) -> None:
        """Take it."""
        ...
