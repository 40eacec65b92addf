"""The pool as rows of letters: what each block is, or what most are of the blocks that share a place.

A kind has a letter besides its colour, so that the picture is read on any terminal, and without seeing colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire_proto.messages.pool_map import (
    CELL_ACCOUNT,
    CELL_CLAIMED,
    CELL_PUBLISHED,
    CELL_REFERENCES,
    CELL_STATE,
    MOST_REFERENCES,
)

from .pool_reader import Cells

FREE, HELD, CACHED, QUARANTINED = range(4)  # of a cell
NO_ACCOUNT = 0


@dataclass(frozen=True, slots=True)
class BlockKind:
    """How blocks of one kind are shown."""

    name: str
    letter: str
    style: str


# A block is of the last kind here that it fits.
KINDS = (
    BlockKind("free", ".", "bright_black"),
    BlockKind("cached", "-", "blue"),
    BlockKind("held", "#", "green"),
    BlockKind("shared", "%", "bold green"),  # by two references and more
    BlockKind("claimed", "+", "yellow"),  # computed now, and others may wait for it
    BlockKind("published", "*", "bold magenta"),
    BlockKind("quarantined", "!", "bold red"),
)
_NUMBER = {kind.name: number for number, kind in enumerate(KINDS)}


def kinds_of(cells: Cells) -> NDArray[np.int64]:
    """The number of each block's kind in ``KINDS``."""
    state = cells & CELL_STATE
    kinds = np.choose(state, [_NUMBER["free"], _NUMBER["held"], _NUMBER["cached"], _NUMBER["quarantined"]])
    kinds[(state == HELD) & (references_of(cells) > 1)] = _NUMBER["shared"]
    kinds[cells & CELL_CLAIMED > 0] = _NUMBER["claimed"]
    kinds[cells & CELL_PUBLISHED > 0] = _NUMBER["published"]
    kinds[state == QUARANTINED] = _NUMBER["quarantined"]
    return np.asarray(kinds, np.int64)


def references_of(cells: Cells) -> Cells:
    """How many references each block has."""
    return cells >> np.uint32(CELL_REFERENCES) & np.uint32(MOST_REFERENCES)


def marked_counts(cells: Cells) -> dict[str, int]:
    """Blocks that several references share, that are being claimed, and that are published, each for itself."""
    held = cells & CELL_STATE == HELD
    return {
        "shared": int(np.count_nonzero(held & (references_of(cells) > 1))),
        "claimed": int(np.count_nonzero(cells & CELL_CLAIMED)),
        "published": int(np.count_nonzero(cells & CELL_PUBLISHED)),
    }


def charged_counts(cells: Cells, accounts: tuple[str, ...]) -> dict[str, int]:
    """Blocks that are charged to each account; those in quarantine are charged to the quarantine."""
    charged = (cells >> CELL_ACCOUNT)[cells & CELL_STATE != QUARANTINED]
    counts = np.bincount(charged, minlength=len(accounts) + 1)
    return {name: int(counts[number]) for number, name in enumerate(accounts, 1) if counts[number]}


def pool_rows(cells: Cells, width: int, height: int) -> tuple[list[NDArray[np.int64]], int]:
    """The picture, at most so large: rows of kinds, and how many blocks share a place. Where one of those is in
    quarantine the place says so; else it says what most of them are."""
    kinds = kinds_of(cells)
    each = max(1, -(-len(kinds) // max(1, width * height)))
    places = -(-len(kinds) // each)
    if each > 1:
        keys = np.arange(len(kinds)) // each * len(KINDS) + kinds
        counts = np.bincount(keys, minlength=places * len(KINDS)).reshape(places, len(KINDS))
        kinds = counts.argmax(1)
        kinds[counts[:, _NUMBER["quarantined"]] > 0] = _NUMBER["quarantined"]
    return [kinds[first : first + width] for first in range(0, places, width)], each
