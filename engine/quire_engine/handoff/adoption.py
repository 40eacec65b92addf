"""Adoption: what another engine offers of a sequence is taken over, as soon as there is a batch slot for it."""

from __future__ import annotations

from typing import Protocol

from quire_engine.kv.kv_session import KvSession
from quire_engine.sequences.sequence import Sequence


class OfferedSequences(Protocol):
    """Where those wait that are offered, and where they run: the scheduler."""

    def next_offered(self) -> list[Sequence]:
        """The next of them, as far as there are slots; they are in no queue afterwards."""
        ...

    def joined(self, sequence: Sequence) -> None:
        """It has its table and runs."""
        ...

    def add(self, sequence: Sequence) -> None:
        """It is allocated like a new one."""
        ...


class Beginnings(Protocol):
    """What counts them: the outbox."""

    counters: dict[str, int]

    def begin(self, sequence: Sequence) -> bool:
        """A sequence has its table."""
        ...


def adopt_offered(kv: KvSession, sequences: OfferedSequences, counted: Beginnings) -> None:
    """Take over what is offered, as far as there are slots; what is gone is allocated."""
    found = sequences.next_offered()
    adopted = kv.adopt(found) if found else []
    for sequence in adopted:
        counted.counters["adopted"] += 1
        counted.begin(sequence)
        sequences.joined(sequence)
    for sequence in found if len(adopted) < len(found) else ():
        if sequence not in adopted:
            sequences.add(sequence)
