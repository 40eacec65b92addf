"""Charges: which account each block is charged to, and how many blocks each account holds and caches.

Owns the charge of every block and the counts that follow from it. Knows accounts by number only; names and rules are
the business of ``tenants`` and ``quotas``. The pool makes an entry at each change of a block's state:

             granted            rested
      free ----------> held ------------> cached          fenced:    held -> quarantine
        ^               | ^    resumed      |             unfenced:  quarantine -> held
        |     freed     | +-----------------+
        +---------------+------ evicted ----+             transferred: held, to another account

Invariants:
- each block that is not free has exactly one account: the quarantine while all its references are those of fenced
  sessions, else ``owner``. The owner of a block in quarantine gets the charge back if it is used again;
- ``held`` and ``cached`` are what a count over all blocks would give. They are kept, not counted, because every
  request for blocks asks for them;
- a block has the eviction group of its account (``groups``, read by the policies).
"""

from __future__ import annotations

import numpy as np

from .ids import Ids

NO_ACCOUNT = -1
FIRST_ACCOUNTS = 16


class Charges:
    """The charges of ``size`` blocks, all free.

    Attributes:
        owner: account of each block, ``NO_ACCOUNT`` of a free one.
        groups: eviction group of each block.
        held, cached: blocks by account; longer than there are accounts.
        group_of: eviction group by account.
        quarantined: blocks in quarantine.
    """

    def __init__(self, size: int) -> None:
        self.owner = np.full(size, NO_ACCOUNT, np.int32)
        self.groups: Ids = np.zeros(size, np.int64)
        self.held: Ids = np.zeros(FIRST_ACCOUNTS, np.int64)
        self.cached: Ids = np.zeros(FIRST_ACCOUNTS, np.int64)
        self.group_of: Ids = np.zeros(FIRST_ACCOUNTS, np.int64)
        self.quarantined = 0

    def open(self, account: int) -> None:
        """Take an account number in."""
        while account >= len(self.held):
            for name in ("held", "cached", "group_of"):
                counts = getattr(self, name)
                setattr(self, name, np.concatenate((counts, np.zeros_like(counts))))

    def charged(self, account: int) -> int:
        """Blocks charged to an account."""
        return int(self.held[account] + self.cached[account])

    def cached_in(self, group: int) -> int:
        """Cached blocks of all accounts of an eviction group."""
        return int(self.cached[self.group_of == group].sum())

    def granted(self, ids: Ids, account: int) -> None:
        """Free blocks were given to an account."""
        self.owner[ids] = account
        self.groups[ids] = self.group_of[account]
        self.held[account] += len(ids)

    def rested(self, ids: Ids) -> None:
        """Held blocks are cached now."""
        owners = self.owner[ids]
        np.subtract.at(self.held, owners, 1)
        np.add.at(self.cached, owners, 1)

    def resumed(self, ids: Ids) -> None:
        """Cached blocks are held again."""
        owners = self.owner[ids]
        np.subtract.at(self.cached, owners, 1)
        np.add.at(self.held, owners, 1)

    def freed(self, ids: Ids) -> None:
        """Held blocks are free now."""
        np.subtract.at(self.held, self.owner[ids], 1)
        self.owner[ids] = NO_ACCOUNT

    def evicted(self, ids: Ids) -> None:
        """Cached blocks are free now."""
        np.subtract.at(self.cached, self.owner[ids], 1)
        self.owner[ids] = NO_ACCOUNT

    def fenced(self, ids: Ids) -> None:
        """Held blocks have no reference left but those of fenced sessions."""
        np.subtract.at(self.held, self.owner[ids], 1)
        self.quarantined += len(ids)

    def unfenced(self, ids: Ids) -> None:
        """Blocks leave the quarantine and are held."""
        np.add.at(self.held, self.owner[ids], 1)
        self.quarantined -= len(ids)

    def transferred(self, ids: Ids, account: int) -> None:
        """Held blocks, whatever account they were charged to, are charged to ``account``."""
        self.freed(ids)
        self.granted(ids, account)
