"""Bodies of the ops that show the pool block by block: pool_map, block. For operators, who may see whose each block is.

A block is a *cell*, one u32, so that 100,000 of them are 400 kB, and what changed since a reader last asked is little:

    bits 0-1    state: 0 free, 1 held, 2 cached, 3 quarantined
    bit 2       sealed
    bit 3       claimed: a sequence computes its prompt into it, and others may wait for that
    bit 4       published: in the table of a publication
    bits 8-15   references, at most 255: 2 and more share it
    bits 16-31  number of the account that it is charged to, plus 1; 0: none, 65,535: one of a higher number
"""

from __future__ import annotations

from dataclasses import dataclass

from quire_proto.wire.arrays import U32s

CELL_STATE, CELL_SEALED, CELL_CLAIMED, CELL_PUBLISHED = 0b11, 1 << 2, 1 << 3, 1 << 4
CELL_REFERENCES, CELL_ACCOUNT = 8, 16  # where these begin
MOST_REFERENCES, MOST_ACCOUNTS = 0xFF, 0xFFFF


@dataclass(frozen=True, slots=True)
class AskPoolMap:
    """Ask for the cells that changed since ``version`` of that ``boot`` (0: for all of them), and for the names of
    accounts from number ``accounts`` on."""

    boot: bytes = b""
    version: int = 0
    accounts: int = 0


@dataclass(frozen=True, slots=True)
class PoolMap:
    """Cells: those of ``blocks``, or without them, if there are any, of all blocks in order.

    Attributes:
        version: of this answer, to be named in the next question.
        counts: blocks by state, as in ``stats``.
        names: of accounts, from the number asked for on; there may be more (``accounts``).
    """

    boot: bytes
    version: int
    num_blocks: int
    counts: dict[str, int]
    accounts: int
    cells: U32s = b""
    blocks: U32s = b""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AskBlock:
    """Ask for all that is known of one block."""

    block: int


@dataclass(frozen=True, slots=True)
class BlockHolder:
    """What holds a reference to a block. ``holds``: ``table``, ``pin`` or ``copy``; ``place``: index in its table."""

    session: str
    state: str
    sequence: int
    tenant: str
    holds: str
    place: int


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """One block. ``quarantined``: references of fenced sessions; ``more``: holders besides those that are named."""

    block: int
    state: str
    account: str
    references: int
    quarantined: int
    sealed: bool
    publications: tuple[str, ...] = ()
    holders: tuple[BlockHolder, ...] = ()
    more: int = 0
