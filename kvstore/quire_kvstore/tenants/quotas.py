"""Quotas: what each account may have, and which gives way when space is short. Rules only; ``admission`` applies them.

    limit      blocks an account may be charged, cache included. Never exceeded, not for an instant.
    guarantee  blocks an account can have whatever the others do: none evicts its cache below it, and none
               grows past its own guarantee into what is missing of it.
    weight     share of the cache that no guarantee covers: of two accounts, the one with more blocks above its
               guarantee per weight loses cache first.

Invariant: guarantees + pin budget + quarantine reserve <= pool, so that all guarantees can be met at once. Without
quotas nothing here is asked (``active`` is false): one order of eviction and one limit, the pool.

A tenant with a quota is an eviction group of its own; all others share group 0, with the weight of all of them
that have blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire_kvstore.blocks.charges import FIRST_ACCOUNTS, Charges
from quire_kvstore.blocks.ids import Ids

UNLIMITED = 1 << 62
MAX_LIMIT = (1 << 31) - 1  # the largest pool
DEFAULT_WEIGHT = 100
MAX_WEIGHT = 10_000
HALVINGS = 48  # halvings of the level: exact to a block for any pool


@dataclass(frozen=True, slots=True)
class Quota:
    """The settings of one tenant, in blocks. ``limit`` 0 means none."""

    limit: int = 0
    guarantee: int = 0
    weight: int = DEFAULT_WEIGHT


class Quotas:
    """Settings by account number, as arrays as long as the charges'.

    Attributes:
        active: some tenant has a quota.
        pin_budget: blocks that publications may pin.
        quarantine_reserve: blocks kept back, once there are guarantees, for what fenced sessions hold.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.active = False
        self.pin_budget = size
        self.quarantine_reserve = 0
        self.limit: Ids = np.full(FIRST_ACCOUNTS, UNLIMITED, np.int64)
        self.guarantee: Ids = np.zeros(FIRST_ACCOUNTS, np.int64)
        self.weight: Ids = np.full(FIRST_ACCOUNTS, DEFAULT_WEIGHT, np.int64)
        self._groups = 1

    def open(self, account: int) -> None:
        """Take an account number in."""
        while account >= len(self.limit):
            have = len(self.limit)
            self.limit = np.concatenate((self.limit, np.full(have, UNLIMITED, np.int64)))
            self.guarantee = np.concatenate((self.guarantee, np.zeros(have, np.int64)))
            self.weight = np.concatenate((self.weight, np.full(have, DEFAULT_WEIGHT, np.int64)))

    def get(self, account: int) -> Quota:
        """The settings of an account."""
        limit = int(self.limit[account])
        return Quota(0 if limit == UNLIMITED else limit, int(self.guarantee[account]), int(self.weight[account]))

    def problem(self, account: int | None, quota: Quota) -> str:
        """Why a quota cannot be promised to an account (None: one that does not exist yet), or nothing."""
        if quota.limit and quota.limit < quota.guarantee:
            return f"a guarantee of {quota.guarantee} blocks is more than the limit of {quota.limit}"
        if quota.limit > MAX_LIMIT:
            return f"a limit is at most {MAX_LIMIT}"
        if not 1 <= quota.weight <= MAX_WEIGHT:
            return f"a weight is 1 to {MAX_WEIGHT}"
        others = int(self.guarantee.sum()) - (0 if account is None else int(self.guarantee[account]))
        left = self._size - self.pin_budget - self.quarantine_reserve - others
        if quota.guarantee > max(left, 0):
            return (
                f"{max(left, 0)} blocks can be guaranteed: the pool has {self._size}, publications may pin "
                f"{self.pin_budget}, {self.quarantine_reserve} are kept for fenced sessions, others have {others}"
            )
        return ""

    def set(self, account: int, quota: Quota, charges: Charges) -> bool:
        """Enter settings without a problem; gives the account an eviction group of its own on first use.

        Returns whether cached blocks have another group now.
        """
        self.limit[account] = quota.limit or UNLIMITED
        self.guarantee[account] = quota.guarantee
        self.weight[account] = quota.weight
        self.active = True
        if charges.group_of[account]:
            return False
        charges.group_of[account] = self._groups
        if charges.charged(account) or charges.quarantined:
            charges.groups[charges.owner == account] = self._groups
        self._groups += 1
        return bool(charges.cached[account])

    def protected(self, held: Ids, cached: Ids) -> Ids:
        """Cached blocks of each account that others may not evict."""
        kept: Ids = np.clip(self.guarantee - held, 0, cached)
        return kept

    def shares(self, charges: Charges, count: int) -> list[tuple[int, int]]:
        """(group, blocks) that give up ``count`` cached blocks, or as many as are above guarantees."""
        held, cached, groups = charges.held, charges.cached, charges.group_of
        free = self._by_group(cached - self.protected(held, cached), groups)
        above = self._by_group(np.maximum(held + cached - self.guarantee, 0), groups)
        weight = self._by_group(np.where(held + cached > 0, self.weight, 0), groups)
        taken = level(above, np.maximum(weight, 1), free, min(count, int(free.sum())))
        return [(group, int(taken[group])) for group in np.flatnonzero(taken).tolist()]

    def _by_group(self, numbers: Ids, groups: Ids) -> Ids:
        sums = np.zeros(self._groups, np.int64)
        np.add.at(sums, groups, numbers)
        return sums


def level(above: Ids, weight: Ids, free: Ids, count: int) -> Ids:
    """What each gives so that the highest ``above / weight`` left is as low as possible.

    Args:
        above, weight, free: by group; ``free`` is the most it can give, at most ``above``.
        count: to be given in all, at most the sum of ``free``.
    """
    low, high = 0.0, float((above / weight).max(initial=0.0))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _given(above, weight, free, middle).sum() >= count else (low, middle)
    taken = _given(above, weight, free, high)
    for _ in range(count - int(taken.sum())):  # rounding left less than a block a group
        taken[np.argmax(np.where(taken < free, (above - taken) / weight, -1.0))] += 1
    return taken


def _given(above: Ids, weight: Ids, free: Ids, height: float) -> Ids:
    given: Ids = np.clip(np.floor(above - height * weight).astype(np.int64), 0, free)
    return given
