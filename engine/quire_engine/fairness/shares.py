"""Shares: whose turn it is, so that each tenant gets its weight's share of the work while several want some.

Each tenant has a counter: the tokens of work it was given, divided by its weight. The turn is that of the tenant with
the least (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). What others
leave goes to a tenant that has work, so a lone tenant gets all.

Invariant: a tenant that begins to want work stands no lower than the lowest that wants some already, or, if there is
none, than the one that wanted some last. One that only waits for a batch slot stands no lower than the lowest that has
a prompt in the batch. So nothing is saved up by idling or behind a full batch, and between two that can be given work
all the time the counters are never further apart than one piece of work.

Work of no tenant ("") is counted nowhere. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

WEIGHT = 100  # of a tenant for which none was given
NOTHING: Mapping[str, int] = {}


class Shares:
    """Counters and weights by tenant."""

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._weights: dict[str, int] = {}
        self._wanting: set[str] = set()
        self._last = ""

    def weigh(self, tenant: str, weight: int) -> None:
        """A tenant's weight from now on; at least 1."""
        if weight == WEIGHT:
            self._weights.pop(tenant, None)
        else:
            self._weights[tenant] = max(1, weight)

    def weight(self, tenant: str) -> int:
        """A tenant's weight."""
        return self._weights.get(tenant, WEIGHT)

    def join(self, tenant: str) -> None:
        """A tenant wants work that wanted none."""
        if not tenant or tenant in self._wanting:
            return
        self._raise((tenant,), self._wanting or {self._last})
        self._wanting.add(tenant)

    def leave(self, tenant: str) -> None:
        """A tenant has been given all that it wanted, for now."""
        if tenant in self._wanting:
            self._wanting.remove(tenant)
            self._last = tenant

    def lift(self, blocked: Iterable[str], served: Iterable[str]) -> None:
        """Tenants in ``blocked`` want work and have no slot for it; those in ``served`` have, and go on."""
        others = [tenant for tenant in served if tenant]
        if others:
            self._raise((tenant for tenant in blocked if tenant), others)

    def _raise(self, tenants: Iterable[str], others: Iterable[str]) -> None:
        """No tenant stands lower than the lowest of ``others``, of which there is one at least."""
        floor = min(map(self.counter, others))
        for tenant in tenants:
            self._counters[tenant] = max(self.counter(tenant), floor)

    def charge(self, tenant: str, tokens: int) -> None:
        """A tenant was given so many tokens of work."""
        if tenant:
            self._counters[tenant] = self.counter(tenant) + tokens / self.weight(tenant)

    def counter(self, tenant: str) -> float:
        """Tokens of work over weight, and what was not to be saved up."""
        return self._counters.get(tenant, 0.0)

    def turn(self, tenants: Iterable[str], besides: Mapping[str, int] = NOTHING) -> str:
        """Whose turn it is of those that want work; of equals the first.

        Args:
            besides: tokens that are as good as given, and not charged yet.
        """
        return min(tenants, key=lambda tenant: self.counter(tenant) + besides.get(tenant, 0) / self.weight(tenant))

    def portions(self, tenants: Iterable[str], whole: int) -> dict[str, float]:
        """What each of ``tenants`` may have of ``whole`` things that all of them want."""
        weights = {tenant: self.weight(tenant) for tenant in tenants}
        total = sum(weights.values())
        return {tenant: whole * weight / total for tenant, weight in weights.items()}
