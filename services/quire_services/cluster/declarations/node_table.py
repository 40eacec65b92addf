"""The nodes that follow a store, for a person: what each has in force, and what it fails at."""

from __future__ import annotations

import json
import time

from .records import DeclarationStore
from .share_ledger import LEASE_S, NODE, SHARE


def nodes_text(store: DeclarationStore, *, as_json: bool) -> str:
    """A line for each node, and its shares of quotas. Raises StoreError."""
    newest = store.revision()
    table = store.table("shares").read().values()
    shares = {
        record.name: dict(record.value.get("shares", {})) for record in table if record.kind == SHARE and record.value
    }
    rows = []
    for record in sorted(table, key=lambda record: record.name):
        if record.kind == NODE and record.value is not None:
            silent = max(0.0, time.time() - record.version / 1e6)
            row = {"node": record.name, "silent_s": round(silent, 1), "version": record.value.get("version", 0)}
            row["problems"] = list(record.value.get("problems", []))
            row["shares"] = {tenant: row_[record.name] for tenant, row_ in shares.items() if record.name in row_}
            row["state"] = _state(row, bool(record.value.get("joined")), newest)
            rows.append(row)
    if as_json:
        return json.dumps(rows, indent=2)
    lines = [
        f"{row['node']:<28}{row['state']:<12}"
        + " ".join([*(f"{tenant}={blocks}" for tenant, blocks in sorted(row["shares"].items())), *row["problems"]])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines) or "no node follows this store"


def _state(row: dict[str, object], joined: bool, newest: int) -> str:
    if float(str(row["silent_s"])) > LEASE_S:
        return "silent"
    if int(str(row["version"])) < newest:
        return "behind"
    return "joined" if joined and not row["problems"] else "joining"
