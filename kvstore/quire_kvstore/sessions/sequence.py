"""Sequence: one request branch, as the store sees it.

    0 ........ sealed*bs ........ fill ........ writable ........ len(table)*bs
    | sealed, indexed | full or   | own slots,  | (children of a fork: fill == writable until
    |                 | part full | not yet     |  they extend; all others: writable is the
    |                 |           | written     |  capacity)

Invariants:
- ``sealed * block_size <= fill <= writable <= len(table) * block_size``;
- this sequence is the appender of every block between ``fill`` and ``writable``, the unfull one included;
- ``pins[i]`` is the canonical block of table index ``i``: another block with the same digest was indexed first. It
  is pinned until the session swaps to it or frees the sequence, so that the chain of digests below a sealed block
  is always held by what holds the block;
- ``copies`` are copy-on-write copies the session has not acknowledged; their sources are pinned;
- the first ``behind`` entries of the table are ``GIVEN_BACK``: all its layers' windows have left them behind
  (``ops/left_behind``). Nothing of them is held, so their names may be evicted, and those of all that hangs below.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from quire_kvstore.blocks.ids import NO_BLOCKS, Ids

GIVEN_BACK = 0x7FFF_FFFF  # no block of any pool: an index made of it fails


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy the session was asked to do: the first ``slots`` slots of ``src`` into ``dst``."""

    src: int
    dst: int
    slots: int


@dataclass(slots=True, eq=False)
class Sequence:
    """Table, marks and pins of one sequence.

    Attributes:
        uid: unique in the life of the store; the appender of a block is known by it.
        account: what its new blocks are charged to (``accounts``).
        private_from: first table index that is indexed under the tenant's own chain (0 without a publication).
        publication: id of the publication its tokens begin with, "" for none.
        publication_edition: which one of that id (``PublishedPrompt.edition``).
        published_tokens: how many that publication has.
        anchor: digest of table index ``private_from - 1`` in the tenant's chain; None if the client did not say.
        prompt: tokens it was begun with; what it fills beyond them was generated.
        matched: tokens that it found computed when it was begun.
        scrubs: blocks granted with another account's content, not known to be zeroed yet (``scrub``).
        chained: False for a fork that left a publication before its end. What it shares has no name in the
            tenant's chain, so nothing of it can be sealed.
        behind: leading entries of the table that it gave back. ``touched``: so many when ``left_behind`` did that.
        offer: id of the offer that froze it (``handoff``), empty for none.
        spare: what the table grows into, if it is the beginning of that.
    """

    uid: int
    account: int
    table: Ids
    fill: int = 0
    writable: int = 0
    sealed: int = 0
    behind: int = 0
    touched: int = 0
    pins: dict[int, int] = field(default_factory=dict)
    copies: dict[int, Copy] = field(default_factory=dict)
    publication: str = ""
    publication_edition: int = 0
    published_tokens: int = 0
    private_from: int = 0
    anchor: bytes | None = None
    prompt: int = 0
    matched: int = 0
    chained: bool = True
    scrubs: Ids = field(default_factory=NO_BLOCKS.copy)
    offer: bytes = b""
    spare: Ids = field(default_factory=NO_BLOCKS.copy)

    def grow(self, fresh: list[int]) -> None:
        """Put blocks behind the table; what it grows into is its own, so that most blocks cost no copy of it."""
        table, spare = self.table, self.spare
        have = len(table)
        end = have + len(fresh)
        if table.base is not spare or end > len(spare):
            spare = self.spare = np.empty(end + end // 4 + 8, np.int64)
            spare[:have] = table
        for place, block in enumerate(fresh, have):
            spare[place] = block
        self.table = spare[:end]

    @property
    def held(self) -> Ids:
        """The blocks of its table, without those that it gave back."""
        return self.table[self.behind :] if self.behind else self.table

    def canonical(self, index: int) -> int:
        """The indexed block of table index ``index``: the pinned one, else the table's."""
        return self.pins.get(index, int(self.table[index]))

    def pin_ids(self) -> Ids:
        """Canonical blocks pinned, in table order."""
        return np.array([self.pins[index] for index in sorted(self.pins)], np.int64)

    def copy_ids(self) -> Ids:
        """Sources of the copies not yet acknowledged."""
        return np.array([copy.src for copy in self.copies.values()], np.int64)

    def references(self) -> int:
        """How many references the sequence holds."""
        return len(self.table) - self.behind + len(self.pins) + len(self.copies)
