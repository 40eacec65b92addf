"""The naive model of quotas: what each account may have, counted anew from all blocks at each question.

``Counts`` says what each account holds and caches, at one instant. The rules are those of the design: a limit is never
exceeded; an account within its guarantee gets whatever is there but for what others' guarantees protect; one
that grows beyond it leaves alone what others may still claim.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

NONE = 1 << 60


@dataclass(frozen=True)
class Quota:
    """Blocks that one tenant may have, and those that it can have. ``limit`` 0: no limit."""

    limit: int = 0
    guarantee: int = 0
    weight: int = 100


@dataclass(frozen=True)
class Counts:
    """Blocks held and cached by account, and those in quarantine; ``pending``: of publications not computed yet."""

    held: Counter[str]
    cached: Counter[str]
    quarantined: int
    pending: int


class Promises:
    """All quotas over a pool of ``size`` blocks, ``pins`` of them for publications and ``reserve`` for quarantine."""

    def __init__(self, size: int, pins: int, reserve: int) -> None:
        self.size, self.pins, self.reserve = size, pins, reserve
        self.quotas: dict[str, Quota] = {}

    def limit(self, account: str) -> int:
        """The most that an account may be charged."""
        return self.quotas.get(account, Quota()).limit or NONE

    def guarantee(self, account: str) -> int:
        """What an account can have whatever the others do."""
        return self.quotas.get(account, Quota()).guarantee

    def accepts(self, tenant: str, quota: Quota, held: int) -> bool:
        """Whether a quota can be promised, and is kept already."""
        others = sum(other.guarantee for name, other in self.quotas.items() if name != tenant)
        fits = quota.guarantee <= max(0, self.size - self.pins - self.reserve - others)
        return fits and (not quota.limit or max(quota.guarantee, held) <= quota.limit)

    def short(self, account: str, count: int, now: Counts) -> tuple[int, str]:
        """Blocks that are missing if an account wants ``count`` more, and why: (0, "") if it can have them."""
        over = now.held[account] + count - self.limit(account)
        if over > 0:
            return over, "limit"
        there = self.size - now.held.total() - now.quarantined
        others = [name for name in self.quotas if name != account]
        within = now.held[account] + count <= self.guarantee(account)
        if within:
            kept = sum(self.protected(name, now) for name in others)
        else:
            kept = sum(max(0, self.guarantee(name) - now.held[name]) for name in others)
            kept += max(0, self._reserved(account, now) - now.quarantined)
        guaranteed = any(quota.guarantee for quota in self.quotas.values())
        scope = "guarantees" if guaranteed and not within and not account.startswith("(") else "pool"
        missing = count - there + kept
        return (missing, scope) if missing > 0 else (0, "")

    def protected(self, account: str, now: Counts) -> int:
        """Cached blocks of an account that no other may evict."""
        return min(max(0, self.guarantee(account) - now.held[account]), now.cached[account])

    def fair(self, now: Counts, lost: Counter[str]) -> None:
        """Of two tenants with quotas the one with more above its guarantee per weight lost cache, within a block."""
        left = {name: now.held[name] + now.cached[name] - lost[name] - self.guarantee(name) for name in self.quotas}
        for loser in lost.keys() & left.keys():
            for other in left:
                spared = now.cached[other] - lost[other] > self.protected(other, now)
                mine, others = self.quotas[loser].weight, self.quotas[other].weight
                fair = (left[loser] + 1) * others >= (left[other] - 1) * mine
                assert fair or not spared or other == loser, "cache was lost against the weights"

    def _reserved(self, account: str, now: Counts) -> int:
        """Kept for the quarantine, and from tenants for publications, once anything is guaranteed."""
        if not any(quota.guarantee for quota in self.quotas.values()):
            return 0
        return self.reserve + (0 if account.startswith("(") else now.pending)

    def compare(self, state: Any) -> None:
        """The store has the same quotas, and its policy finds the cached blocks of an account in its group alone."""
        real = {name: (q.limit, q.guarantee, q.weight) for name, q in state.accounts.quotas().items()}
        assert real == {name: (q.limit, q.guarantee, q.weight) for name, q in self.quotas.items()}, "quotas"
        charges, groups = (
            state.charges,
            Counter(int(state.charges.groups[block]) for block in state.pool.policy.cached()),
        )
        for group in {int(charges.group_of[number]) for number in range(len(state.accounts))}:
            members = [number for number in range(len(state.accounts)) if charges.group_of[number] == group]
            assert groups[group] == sum(int(charges.cached[number]) for number in members), "cached blocks of a group"
