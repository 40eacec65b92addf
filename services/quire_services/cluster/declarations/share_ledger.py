"""The ledger of shares: what of each cluster quota is whose, in a table of the store, moved by compare-and-set.

Each node beats: it writes what its tenants use, and what a request needed there that was more than its share; the
version that the store gives is the store's time. A node that
has not beaten for ``LEASE_S`` is taken for dead, and its shares are free. Invariants: a row's shares add up to the
limit at most, once a node has seen that limit; a node lowers its own limit before it writes a lower share, and writes a
higher one before it raises the limit. So all limits in force add up to the quota at most, whoever stops at whatever
moment, with these exceptions, which are the documented bound:

- a limit that an operator lowers: until its next beat a node keeps the share that it had;
- a node that is cut off from the store, and not from its clients, keeps its limit beyond the lease: the others may have
  its share, too, until it is back;
- a node without a share has a limit of one block, because 0 means none;
- what running requests hold is never taken from them: a lowered quota is reached when they have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .records import Change, DeclarationStore, Record, StoreError, WriteConflict, by_kind
from .shares import fair_shares, least_shares

LEASE_S = 30.0
NODE, SHARE = "node", "share"
STEP_PARTS = 16  # while all nodes have their least, a share moves by more than this part of it, or stays
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Use:
    """What a tenant has on a node: blocks of running requests, and of cache."""

    held: int = 0
    cached: int = 0

    @property
    def blocks(self) -> int:
        """All that is charged to it."""
        return self.held + self.cached


class ShareLedger:
    """One node's side of the ledger.

    Args:
        table: of the store, for shares alone: it is written every interval.
        node: this node's name. Two followers under one name are an error.
    """

    def __init__(self, table: DeclarationStore, node: str, lease_s: float = LEASE_S) -> None:
        self._table, self._node, self._lease_us = table, node, round(lease_s * 1_000_000)
        self._beat = 0
        self._since: dict[str, int] = {}  # when a need was there first, by the store's time

    def beat(
        self, uses: Mapping[str, Use], about: Mapping[str, Any], needs: Mapping[str, int] | None = None
    ) -> LedgerPage:
        """Say that this node lives, what it uses and what else others may want to know; the ledger as it is then.
        ``needs``: blocks that tenants must have here at once. Raises StoreError."""
        if not self._beat:  # an earlier life's, if there was one
            before = self._table.read().get(f"{NODE}/{self._node}")
            self._beat = before.version if before else 0
        needs = needs or {}
        self._since = {tenant: self._since.get(tenant, self._beat) for tenant in needs}
        value = {"uses": {tenant: use.blocks for tenant, use in uses.items() if use.blocks}, **about}
        value["needs"] = {tenant: [need, self._since[tenant]] for tenant, need in needs.items()}
        try:
            self._beat = self._table.write([Change(NODE, self._node, value, self._beat)])
        except WriteConflict:
            self._beat = 0
            raise StoreError(f"another follower calls itself {self._node!r}, too: give each node a name") from None
        records = self._table.read()
        alive = {
            name: record
            for name, record in by_kind(records, NODE).items()
            if record.value is not None and record.version >= self._beat - self._lease_us
        }
        return LedgerPage(self._table, self._node, alive, by_kind(records, SHARE))

    def leave(self) -> None:
        """Give all shares up, for a node that is stopped in order. Raises StoreError."""
        records = self._table.read()
        for record in by_kind(records, SHARE).values():
            shares = dict((record.value or {}).get("shares", {}))
            if shares.pop(self._node, None) is not None:
                self._rewrite(Change(SHARE, record.name, {"shares": shares}, record.version))
        if there := records.get(f"{NODE}/{self._node}"):
            self._rewrite(Change(NODE, self._node, None, there.version))

    def _rewrite(self, change: Change) -> None:
        try:
            self._table.write([change])
        except WriteConflict:
            return  # whoever was faster sees a node less in a lease's time


class LedgerPage:
    """The ledger as a node read it after a beat."""

    def __init__(
        self, table: DeclarationStore, node: str, alive: Mapping[str, Record], shares: Mapping[str, Record]
    ) -> None:
        self._table, self._node, self._shares = table, node, dict(shares)
        self.nodes = {name: dict(record.value or {}) for name, record in alive.items()}

    def share(self, tenant: str) -> int:
        """What this node has of a tenant's limit."""
        return self._row(tenant).get(self._node, 0)

    def settle(self, tenant: str, limit: int, use: Use, lower: Callable[[int], None]) -> int:
        """Move this node's share towards what is fair; the share it has now.

        Args:
            limit: blocks of the cluster.
            use: what the tenant has here.
            lower: puts a lower limit in force; it raises if that fails, and then nothing is written.
        """
        for _ in range(_TRIES):
            written = self._written(tenant)
            row = _within(limit, self._row(tenant))
            mine, others = row.get(self._node, 0), sum(row.values()) - row.get(self._node, 0)
            uses = {name: int(value["uses"].get(tenant, 0)) for name, value in self.nodes.items()}
            uses[self._node] = use.blocks
            needs = self._needs(tenant)
            target, least = fair_shares(limit, uses, needs)[self._node], least_shares(limit, uses, needs)
            starved = any(row.get(name, 0) < least[name] for name in uses)
            if not starved and abs(target - mine) * STEP_PARTS <= mine:
                target = mine  # not worth a write
            elif target < mine:
                target = min(mine, max(target, use.held))
            else:
                target = max(mine, min(target, limit - others))
            if target < written.get(self._node, 0):
                lower(target)
            if target > 0 or self._node in row:
                row[self._node] = target
            if row == written or self._write(tenant, row):
                return target
        return self.share(tenant)  # all others moved theirs: next time

    def _needs(self, tenant: str) -> list[tuple[str, int]]:
        """What nodes need at once, the oldest need first."""
        found = [
            (*value["needs"][tenant], node) for node, value in self.nodes.items() if tenant in value.get("needs", {})
        ]
        return [(node, int(need)) for need, _, node in sorted(found, key=lambda row: (row[1], row[2]))]

    def _written(self, tenant: str) -> dict[str, int]:
        """Shares as they lie in the store."""
        record = self._shares.get(tenant)
        shares = (record.value or {}).get("shares", {}) if record else {}
        return {node: int(share) for node, share in shares.items()}

    def _row(self, tenant: str) -> dict[str, int]:
        """Shares of nodes that live."""
        return {node: share for node, share in self._written(tenant).items() if node in self.nodes}

    def _write(self, tenant: str, row: dict[str, int]) -> bool:
        have = self._shares.get(tenant)
        value = {"shares": row}
        try:
            version = self._table.write([Change(SHARE, tenant, value, have.version if have else 0)])
        except WriteConflict:
            self._shares = by_kind(self._table.read(), SHARE)
            return False
        self._shares[tenant] = Record(SHARE, tenant, version, value)
        return True


def _within(limit: int, row: dict[str, int]) -> dict[str, int]:
    """Shares of a higher limit, cut to this one in proportion."""
    given = sum(row.values())
    return row if given <= limit else {node: share * limit // given for node, share in row.items()}
