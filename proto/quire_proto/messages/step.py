"""The compound op: everything an engine says about its sequences in one scheduler step."""

from __future__ import annotations

from dataclasses import dataclass

from quire_proto.wire.arrays import Digests, Pairs, Quads, Triples, U32s

from .handoff import Adopt, Adopted, Offer, Offered
from .sequence import Allocate, Allocated, Fork, Forked, Seal, Sealed, Shortage


@dataclass(frozen=True, slots=True)
class Step:
    """The compound op: at most one a scheduler step. Sections are applied in the order of the fields.

    ``swaps``: rows (sequence, table index, canonical block; equal to the present block to decline); ``fills``: rows
    (sequence, acknowledged fill mark); ``completed``: rows (sequence, table index, fill mark), as a fill and then a
    seal of that block under its line of ``completed_digests``; ``left_behind``: rows (sequence, blocks), so many
    leading blocks that no layer reads any more; ``extends``: rows (sequence, tokens).
    """

    releases: U32s = b""
    copies_done: U32s = b""
    swaps: Triples = b""
    fills: Pairs = b""
    seals: tuple[Seal, ...] = ()
    completed: Triples = b""
    completed_digests: Digests = b""
    left_behind: Pairs = b""
    forks: tuple[Fork, ...] = ()
    extends: Pairs = b""
    allocates: tuple[Allocate, ...] = ()
    offers: tuple[Offer, ...] = ()
    adopts: tuple[Adopt, ...] = ()

    def __post_init__(self) -> None:
        if len(self.completed) // 12 != len(self.completed_digests) // 32:
            raise ValueError("completed: each row has one digest in completed_digests")


@dataclass(frozen=True, slots=True)
class Stepped:
    """One result an item, in the order of the request; byte strings hold one code an item.

    ``canonical``: of ``completed``, rows (sequence, table index, block). Of ``extends``: ``blocks``, the new entries of
    the tables, as such rows; ``copies`` and ``scrub`` as in ``Allocated``; ``shortages``, one for each NO_SPACE.
    ``priorities``: rows (sequence, priority) of sequences for which something more urgent has begun to wait.
    """

    releases: bytes = b""
    copies_done: bytes = b""
    swaps: bytes = b""
    fills: bytes = b""
    seals: tuple[Sealed, ...] = ()
    completed: bytes = b""
    canonical: Triples = b""
    left_behind: bytes = b""
    forks: tuple[Forked, ...] = ()
    extends: bytes = b""
    blocks: Triples = b""
    copies: Quads = b""
    scrub: U32s = b""
    shortages: tuple[Shortage, ...] = ()
    allocates: tuple[Allocated, ...] = ()
    publications_generation: int = 0
    priorities: Pairs = b""
    offers: tuple[Offered, ...] = ()
    adopts: tuple[Adopted, ...] = ()
