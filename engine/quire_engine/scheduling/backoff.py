"""Backoff: accounts for which the kvstore asked not to be asked about new sequences, and until when.

A shortage of the pool concerns every account, one of a tenant's limit or of what others are guaranteed only that
tenant's: its waiting sequences must not hold up the others'. Times are seconds of a monotonic clock, given by the
caller.
"""

from __future__ import annotations

from collections.abc import Iterable

ALL_ACCOUNTS = ""
SAME_SHORTAGE_S = 1.0


class Backoff:
    """When each account may be asked for again."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._short: dict[str, float] = {}  # the latest of those times, kept when they are over

    def defer(self, account: str, ms: int, now: float) -> bool:
        """Ask nothing for ``account`` for ``ms`` from ``now`` on; returns whether it was not short of space before.

        One that asks again at the end of its time, and gets the same answer, is still short.
        """
        fresh = self._short.get(account, 0.0) < now - SAME_SHORTAGE_S
        self._until[account] = self._short[account] = max(self._until.get(account, 0.0), now + ms / 1000)
        return fresh

    def deferred(self, now: float) -> set[str]:
        """Accounts that are not to be asked for now; those whose time is over are forgotten."""
        self._until = {account: until for account, until in self._until.items() if until > now}
        return set(self._until)

    def remaining_s(self, tenants: Iterable[str], now: float) -> float:
        """Seconds until one of ``tenants`` may be asked for; 0 if one may be now."""
        pool = self._until.get(ALL_ACCOUNTS, 0.0)
        return max(0.0, min(max(self._until.get(name, 0.0), pool) for name in tenants) - now)
