"""Scrub map: whose bytes a block may hold, and so which blocks must be zeroed before another account writes to them.

Owns one account number a block. A grant to another account carries the block in ``scrub``, and the engine zeroes it
on its own stream before its first write. Whether it did is known only from the fill mark: a process may die between
the grant and the scrub, and the block then still holds what it held. Until an acknowledged fill covers the block it
counts as ``MIXED``, and the next sequence to get it scrubs it again.

A fresh arena holds no account's bytes. Which sequences may read a block is not decided here: that is what digests are
for.
"""

from __future__ import annotations

import numpy as np

from quire_kvstore.blocks.charges import NO_ACCOUNT
from quire_kvstore.blocks.ids import Ids

from .sequence import Sequence

MIXED = -2


class ScrubMap:
    """Accounts whose bytes the blocks of a pool may hold."""

    def __init__(self, size: int) -> None:
        self.account = np.full(size, NO_ACCOUNT, np.int32)

    def granted(self, blocks: Ids, sequence: Sequence) -> None:
        """A sequence got blocks to write to; what it must scrub is added to its ``scrubs``."""
        before = self.account[blocks]
        foreign = blocks[(before != NO_ACCOUNT) & (before != sequence.account)]
        self.account[blocks] = sequence.account
        if len(foreign):
            self.account[foreign] = MIXED
            sequence.scrubs = np.concatenate((sequence.scrubs, foreign))

    def granted_clean(self, blocks: Ids, account: int) -> bool:
        """As ``granted``, to sequences of one account, if nothing is to be scrubbed; else nothing, and False."""
        before = self.account[blocks]
        if bool(((before != NO_ACCOUNT) & (before != account)).any()):
            return False
        self.account[blocks] = account
        return True

    def filled(self, sequence: Sequence, blocks: Ids) -> None:
        """The sequence has written to these of its blocks, so it scrubbed them before."""
        if not len(sequence.scrubs):
            return
        done = np.isin(sequence.scrubs, blocks)
        self.account[sequence.scrubs[done]] = sequence.account
        sequence.scrubs = sequence.scrubs[~done]


def owed(sequence: Sequence, fresh: Ids) -> bytes:
    """Of blocks just granted, those to be scrubbed, as little-endian u32."""
    if not len(sequence.scrubs):
        return b""
    return fresh[np.isin(fresh, sequence.scrubs)].astype("<u4").tobytes()
