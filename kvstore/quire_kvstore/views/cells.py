"""Cells: each block as one number, and since which version it is as it is (``messages/pool_map``).

Nothing is noted while the store works. A question compares all blocks with what they were at the last one: a few passes
over arrays, half a millisecond for 100,000 blocks, so that ten questions in a second cost no more than a hundred engine
steps, and nothing without readers. Whoever asked last, what changed since any earlier version can be told.

Invariant: what a cell is now is told to whoever asks about a version before the one since which it is so. In a pool of
more than ``SLICE`` blocks each slice is compared at a moment of its own: others are answered in between.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from quire_kvstore.blocks.pool import HELD, STATE_NAMES
from quire_kvstore.state import State
from quire_proto.messages.pool_map import (
    CELL_ACCOUNT,
    CELL_CLAIMED,
    CELL_PUBLISHED,
    CELL_REFERENCES,
    CELL_SEALED,
    MOST_ACCOUNTS,
    MOST_REFERENCES,
    AskPoolMap,
    PoolMap,
)

SEALED_BIT = CELL_SEALED.bit_length() - 1
SLICE = 1 << 17
CLAIMS_A_SLICE = 512
NAMES_AT_ONCE = 4096
U32Array = NDArray[np.uint32]


class Cells:
    """The cells of a store's blocks; what it needs it makes with the first question."""

    def __init__(self, state: State, boot: bytes) -> None:
        self._state, self._boot = state, boot
        self._version = 1
        self._cells: U32Array = np.zeros(0, np.uint32)
        self._since: NDArray[np.int64] = np.zeros(0, np.int64)

    def answer(self, body: AskPoolMap) -> Generator[bool, None, PoolMap]:
        """The cells that changed since the version that is asked about; all, if that is shorter or it is unknown."""
        yield from self._compare()
        pool, accounts = self._state.pool, self._state.accounts
        same = body.boot == self._boot
        changed = np.flatnonzero(self._since > body.version)
        some = same and 0 < body.version <= self._version and 2 * len(changed) < pool.size
        known = min(max(0, body.accounts), len(accounts)) if same else 0
        counts = pool.counts()
        return PoolMap(
            boot=self._boot,
            version=self._version,
            num_blocks=pool.size,
            counts={name: counts[name] for name in STATE_NAMES},
            accounts=len(accounts),
            cells=(self._cells[changed] if some else self._cells).astype("<u4").tobytes(),
            blocks=changed.astype("<u4").tobytes() if some else b"",
            names=tuple(accounts[n].name for n in range(known, min(len(accounts), known + NAMES_AT_ONCE))),
        )

    def _compare(self) -> Generator[bool, None, None]:
        """Bring the cells up to date."""
        size = self._state.pool.size
        if not len(self._cells):  # all are free
            self._cells, self._since = np.zeros(size, np.uint32), np.zeros(size, np.int64)
        marks = yield from self._marks()
        for first in range(0, size, SLICE):
            if first:
                yield False
            part = slice(first, first + SLICE)
            cells = self._of_blocks(part, marks)
            changed = np.flatnonzero(cells != self._cells[part])
            if len(changed):
                self._version += 1
                self._since[part][changed] = self._version
                self._cells[part][changed] = cells[changed]

    def _of_blocks(self, part: slice, marks: NDArray[np.int32]) -> U32Array:
        pool = self._state.pool
        states, sealed = pool.states(part), pool.sealed[part]
        cells = np.minimum(pool.charges.owner[part], MOST_ACCOUNTS - 1)
        cells += 1
        cells <<= CELL_ACCOUNT - CELL_REFERENCES
        cells |= np.minimum(pool.refs[part], MOST_REFERENCES)
        cells <<= CELL_REFERENCES
        cells |= states | sealed.view(np.int8) << np.int8(SEALED_BIT)
        if len(marks):
            computed = (states == HELD) & ~sealed  # of what is claimed
            cells |= np.where(computed, marks[part], marks[part] & CELL_PUBLISHED)
        return cells.view(np.uint32)

    def _marks(self) -> Generator[bool, None, NDArray[np.int32]]:
        """Of each block whether a publication has it, and whether a sequence claims what it computes there; empty if
        there is neither."""
        state, size = self._state, self._state.block_size
        claims, published = state.claims.all(), [one for one in state.publications.all() if one.table is not None]
        marks = np.zeros(state.pool.size if claims or published else 0, np.int32)
        for count, claim in enumerate(claims, 1):
            identity, number = claim.holder
            session = state.sessions.get(identity)
            sequence = session.sequences.get(number) if session else None
            if sequence is not None:  # else it has inherited the claim and not asked for blocks yet
                first = max(sequence.matched // size, sequence.behind)
                marks[sequence.table[first : sequence.prompt // size]] = CELL_CLAIMED
            if count % CLAIMS_A_SLICE == 0:
                yield False
        for one in published:
            if one.table is not None:  # it may be gone since
                marks[one.table] |= CELL_PUBLISHED
        return marks
