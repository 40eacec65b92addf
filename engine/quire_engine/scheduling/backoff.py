"""Quiet: whom the kvstore asked to leave alone about new sequences, and until when.

A shortage of the pool concerns everybody, one of a tenant's limit or of what others are guaranteed only that tenant:
his waiting sequences must not hold up the others'. Times are seconds of a monotonic clock, given by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable

EVERYBODY = ""
SAME_SHORTAGE_S = 1.0


class Quiet:
    """Ends of the quiet times, by account."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._short: dict[str, float] = {}  # ends of the last quiet times, kept when they are over

    def hush(self, account: str, ms: int, now: float) -> bool:
        """Ask nothing for ``account`` for ``ms`` from ``now`` on; returns whether it was not short of space before.

        One that asks again at the end of its quiet time, and is told the same, is still short.
        """
        fresh = self._short.get(account, 0.0) < now - SAME_SHORTAGE_S
        self._until[account] = self._short[account] = max(self._until.get(account, 0.0), now + ms / 1000)
        return fresh

    def accounts(self, now: float) -> set[str]:
        """Accounts that are to be left alone; those whose time is over are forgotten."""
        self._until = {account: until for account, until in self._until.items() if until > now}
        return set(self._until)

    def wait(self, tenants: Iterable[str], now: float) -> float:
        """Seconds until one of ``tenants`` may be asked for; 0 if one may be now."""
        return max(0.0, min(max(self._until.get(name, 0.0), self._until.get(EVERYBODY, 0.0)) for name in tenants) - now)
