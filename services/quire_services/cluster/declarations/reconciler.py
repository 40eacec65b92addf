"""What a node is told: the difference between what is declared and what its admin API says, part by part.

Each part is applied for itself, so that a prompt that cannot be published keeps no key alive, and of a part all that
the node takes, so that it keeps no other prompt away. Nothing is remembered but which version of a published prompt the
node was given: everything else is compared with what the node says, so a node that came back with an old state
directory, or that somebody changed by hand, is mended like one that is new. What was never declared is the operator's
own, and stays - but for keys, which are the cluster's as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from quire_services.config.key_digests import keys_fingerprint

from .node_admin import NodeAdmin, NodeError
from .node_files import declared_keys, keys_version
from .records import MEMBER, PUBLICATION, QUOTA, Records, live_values
from .share_ledger import LedgerPage, Use

PUBLISH_TIMEOUT_S = 60.0
_NO_QUOTA = {"limit": 0, "guarantee": 0, "weight": 100}


def apply_keys(node: NodeAdmin, records: Records) -> None:
    """Make the node's keys those that are declared. Raises NodeError."""
    version, told = keys_version(records), declared_keys(records)
    if version == 0:  # none was ever declared: what the gateway began with stays
        return
    row = node.call("GET", "keys")
    if (row.get("version"), row.get("fingerprint")) != (version, keys_fingerprint(told)):
        rows = [{"tenant": tenant, "digest": digest} for digest, tenant in told.items()]
        node.call("PUT", "keys", body={"version": version, "keys": rows})


def apply_members(node: NodeAdmin, records: Records) -> None:
    """Make declared memberships, end those that were taken back. Raises NodeError."""
    declared = live_values(records, MEMBER)
    there = {f"{row['group']}/{row['tenant']}" for row in node.rows("groups")}
    refused = _Refused()
    for name in sorted(record.name for record in records.values() if record.kind == MEMBER):
        group, _, tenant = name.partition("/")
        if name in declared and name not in there:
            refused.collect(partial(node.call, "PUT", "groups", group, "members", tenant))
        elif name not in declared and name in there:
            refused.collect(partial(node.call, "DELETE", "groups", group, "members", tenant))
    refused.raise_first()


def apply_publications(node: NodeAdmin, records: Records, given: dict[str, int]) -> bool:
    """Publish what is declared, take back what was deleted; whether the node has computed all of it. ``given``:
    versions that it was given, by id; kept up to date. Raises NodeError."""
    declared = live_values(records, PUBLICATION)
    there: dict[str, list[dict[str, Any]]] = {}
    for row in node.rows("publications"):
        there.setdefault(row["id"], []).append(row)
    refused = _Refused()

    def settle(name: str, version: int) -> None:
        rows, value = there.get(name, []), declared.get(name)
        if rows and (value is None or any(row["domain"] != value["domain"] for row in rows)):
            node.call("DELETE", "publications", name)
            rows = []
        if value is None:
            given.pop(name, None)
        elif not rows or given.get(name) != version:
            body = {"id": name, "replace": True, **value}
            there[name] = [node.call("POST", "publications", body=body, timeout_s=PUBLISH_TIMEOUT_S)]
            given[name] = version

    for record in sorted(records.values(), key=lambda record: record.name):
        if record.kind == PUBLICATION:
            refused.collect(partial(settle, record.name, record.version))
    refused.raise_first()
    return all(row["state"] == "ready" for name in declared for row in there[name])


def uses_of(rows: list[dict[str, Any]]) -> dict[str, Use]:
    """What tenants have on a node, of its admin API's rows."""
    return {row["tenant"]: Use(row["held"], row["cached"]) for row in rows if not row["tenant"].startswith("(")}


def apply_quotas(
    node: NodeAdmin, records: Records, rows: list[dict[str, Any]], page: LedgerPage | None
) -> dict[str, int]:
    """Put this node's share of each quota in force; its shares by tenant, where there is a limit. Raises NodeError.

    Args:
        rows: the node's tenants, as its admin API has them.
        page: the ledger after a beat; None without the store: then shares stay, and a node that never had one has one
            block.
    """
    declared, uses = live_values(records, QUOTA), uses_of(rows)
    now = {row["tenant"]: {key: row[key] for key in _NO_QUOTA} for row in rows}
    shares: dict[str, int] = {}
    refused = _Refused()

    def settle(tenant: str) -> None:
        use, have = uses.get(tenant, Use()), now.get(tenant, _NO_QUOTA)
        put = _putter(node, tenant, have)
        if tenant not in declared:
            put(_NO_QUOTA)
        elif page is not None:
            share = _settled(declared[tenant], tenant, use, page, put)
            if declared[tenant]["limit"]:
                shares[tenant] = share
        elif declared[tenant]["limit"] and not have["limit"]:
            put({**_NO_QUOTA, "limit": max(1, use.held)})

    for tenant in sorted(record.name for record in records.values() if record.kind == QUOTA):
        refused.collect(partial(settle, tenant))
    refused.raise_first()
    return shares


def _settled(
    quota: Mapping[str, Any], tenant: str, use: Use, page: LedgerPage, put: Callable[[Mapping[str, int]], None]
) -> int:
    """Settle one tenant's share and put it in force."""
    limit, guarantee, weight = quota["limit"], quota["guarantee"], quota["weight"]
    if not limit:
        put({"limit": 0, "guarantee": -(-guarantee // len(page.nodes)), "weight": weight})
        return 0

    def in_force(share: int) -> None:
        blocks = max(1, share, use.held)  # what runs may end as it began
        put({"limit": blocks, "guarantee": min(blocks, guarantee * share // limit), "weight": weight})

    share = page.settle(tenant, limit, use, in_force)
    in_force(share)
    return share


def _putter(node: NodeAdmin, tenant: str, have: Mapping[str, int]) -> Callable[[Mapping[str, int]], None]:
    """Puts quotas of a tenant that differ from what was put last."""
    last = dict(have)

    def put(quota: Mapping[str, int]) -> None:
        if last != quota:
            node.call("PUT", "tenants", tenant, "quota", body=dict(quota))
            last.update(quota)

    return put


class _Refused:
    """Refusals of single things, so that one keeps no other back; a node that does not answer is the end of all."""

    def __init__(self) -> None:
        self._first: NodeError | None = None

    def collect(self, act: Callable[[], Any]) -> None:
        """Do it."""
        try:
            act()
        except NodeError as error:
            if not error.status:
                raise
            self._first = self._first or error

    def raise_first(self) -> None:
        """Raise the first, if there was one."""
        if self._first:
            raise self._first
