"""Accounts: the names behind account numbers, and what each account has done.

A tenant has an account from its first request or its first setting on; so has each share domain that something was
published to, and the quarantine. Names of domains and of the quarantine are in brackets, which no tenant's name
begins with. What an account is charged is in the ``charges``, what it may have in the ``quotas``.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire_kvstore.blocks.charges import Charges
from quire_kvstore.blocks.ids import Ids
from quire_proto.messages.tenants import TenantUsage

from .quotas import Quota, Quotas

QUARANTINE = "(quarantine)"
MAX_TENANT_CHARS = 256
TENANT_RULE = f"1 to {MAX_TENANT_CHARS} printable characters, the first of them no bracket"


def is_tenant(name: str) -> bool:
    """Whether a tenant may be called so."""
    return 0 < len(name) <= MAX_TENANT_CHARS and not name.startswith("(") and name.isprintable()


@dataclass(slots=True)
class Account:
    """Counters of one tenant or domain. ``declared``: its quota was set."""

    name: str
    sequences: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    declared: bool = False

    @property
    def is_domain(self) -> bool:
        """Whether this is a share domain's account."""
        return self.name.startswith("(")


class Accounts:
    """Accounts by number; number 0 is the public domain."""

    def __init__(self, charges: Charges, quotas: Quotas) -> None:
        self._charges, self._quotas = charges, quotas
        self._numbers: dict[str, int] = {}
        self._accounts: list[Account] = []
        self.public = self.number("(public)")

    def number(self, name: str) -> int:
        """Number of an account, made on first use."""
        number = self._numbers.setdefault(name, len(self._accounts))
        if number == len(self._accounts):
            self._accounts.append(Account(name))
            self._charges.open(number)
            self._quotas.open(number)
        return number

    def of_domain(self, domain: str) -> int:
        """Number of a share domain's account."""
        return self.number(f"({domain})")

    def find(self, name: str) -> int | None:
        """Number of an account, None if there is none of that name."""
        return self._numbers.get(name)

    def __len__(self) -> int:
        return len(self._accounts)

    def __getitem__(self, number: int) -> Account:
        return self._accounts[number]

    def publish(self, blocks: Ids, domain: int) -> bool:
        """Move the charge for held blocks to a share domain, or change nothing if the pin budget does not allow it."""
        held = self._charges.held
        pinned = sum(int(held[number]) for number, account in enumerate(self._accounts) if account.is_domain)
        moved = [number for number in self._charges.owner[blocks].tolist() if not self._accounts[number].is_domain]
        if moved and pinned + len(moved) > self._quotas.pin_budget:
            return False
        self._charges.transferred(blocks, domain)
        return True

    def quotas(self) -> dict[str, Quota]:
        """The settings of every tenant that has some, by name."""
        return {a.name: self._quotas.get(i) for i, a in enumerate(self._accounts) if a.declared}

    def usage(self) -> tuple[TenantUsage, ...]:
        """Usage of all accounts, the quarantine last."""
        rows = [self.usage_of(number) for number in range(len(self._accounts))]
        return (*rows, TenantUsage(QUARANTINE, self._charges.quarantined, 0, 0, 0, 0))

    def usage_of(self, number: int) -> TenantUsage:
        """Usage and quota of one account."""
        account, quota = self._accounts[number], self._quotas.get(number)
        return TenantUsage(
            account.name,
            int(self._charges.held[number]),
            int(self._charges.cached[number]),
            account.sequences,
            account.prompt_tokens,
            account.cached_tokens,
            quota.limit,
            quota.guarantee,
            quota.weight,
        )
