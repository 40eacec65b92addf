"""The naive model of contents: whose bytes each block may hold, and so what must be zeroed before it is written.

A set of accounts a block. A grant adds the new owner; only an acknowledged fill proves that it scrubbed what was there.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.proofs.model import Row


class Contents:
    """Whose bytes are where, in an arena that held none."""

    def __init__(self) -> None:
        self._bytes: defaultdict[int, set[str]] = defaultdict(set)

    def granted(self, row: Row, fresh: list[int], told: list[int]) -> None:
        """A row got blocks and was told to scrub some: those that may hold another account's bytes."""
        foreign = [block for block in fresh if self.foreign(block, row.tenant)]
        assert sorted(told) == foreign, "what must be scrubbed"
        row.scrubs.update(foreign)
        for block in fresh:
            self._bytes[block].add(row.tenant)

    def foreign(self, block: int, tenant: str) -> bool:
        """Whether a block may hold anything but what this tenant wrote there."""
        return bool(self._bytes[block] - {tenant})

    def filled(self, row: Row, blocks: list[int]) -> None:
        """A row has written to these blocks: so it scrubbed them before."""
        for block in row.scrubs & set(blocks):
            self._bytes[block] = {row.tenant}
        row.scrubs -= set(blocks)
