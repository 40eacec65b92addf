"""Accounts: whom each block is charged to, and what each tenant asked for.

Every block that is not free has exactly one account: the tenant whose sequence took it, or the share domain once it
belongs to a publication. Names of domains and of the quarantine are in brackets, which no tenant's name begins with.
Usage is counted when somebody asks, in one pass over numpy arrays: nothing is added to the hot path but one number
per block taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire_proto.messages import TenantUsage

from .pool import CACHED, HELD, QUARANTINED, BlockPool, Ids

QUARANTINE = "(quarantine)"


@dataclass(slots=True)
class Account:
    """Counters of one tenant or domain."""

    name: str
    sequences: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Accounts:
    """Accounts by number; number 0 is the public domain."""

    def __init__(self, size: int) -> None:
        self._numbers: dict[str, int] = {}
        self._accounts: list[Account] = []
        self.owner = np.zeros(size, np.int32)
        self.public = self.number("(public)")

    def number(self, name: str) -> int:
        """Number of an account, made on first use."""
        number = self._numbers.setdefault(name, len(self._accounts))
        if number == len(self._accounts):
            self._accounts.append(Account(name))
        return number

    def of_domain(self, domain: str) -> int:
        """Number of a share domain's account."""
        return self.number(f"({domain})")

    def __getitem__(self, number: int) -> Account:
        return self._accounts[number]

    def charge(self, blocks: Ids, number: int) -> None:
        """Move the charge for blocks to an account."""
        self.owner[blocks] = number

    def usage(self, pool: BlockPool) -> tuple[TenantUsage, ...]:
        """Usage of all accounts, the quarantine last."""
        states, count = pool.states(), len(self._accounts)
        held = np.bincount(self.owner[states == HELD], minlength=count).tolist()
        cached = np.bincount(self.owner[states == CACHED], minlength=count).tolist()
        rows = [
            TenantUsage(a.name, held[i], cached[i], a.sequences, a.prompt_tokens, a.cached_tokens)
            for i, a in enumerate(self._accounts)
        ]
        quarantined = int(np.count_nonzero(states == QUARANTINED))
        return (*rows, TenantUsage(QUARANTINE, quarantined, 0, 0, 0, 0))
