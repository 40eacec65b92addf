"""The handler of ``quota``: declare what a tenant may have, and put the declaration on the disk before it counts.

A quota holds from the reply on, so one that is broken at this moment is refused, by name of what breaks it: a limit
below what the tenant's running requests hold, a guarantee beyond what is left to promise. Two things take longer than
an engine's op may, and only administration may do them: a limit below what the tenant has cached evicts that cache at
once, some microseconds a block; and the first quota of a tenant that has cache gives that an order of eviction of its
own (LRU: 0.2 us a cached block of the pool, density: a table's leaf). Any other setting is the writing of the document.
"""

from __future__ import annotations

from typing import Any

from quire_kvstore.errors import Refusal
from quire_kvstore.host.state_dir import StateDir, StateError
from quire_kvstore.ops.admission import trim
from quire_kvstore.ops.slices import Slices
from quire_kvstore.state import State
from quire_kvstore.tenants.accounts import TENANT_RULE, is_tenant
from quire_kvstore.tenants.quotas import DEFAULT_WEIGHT, Quota
from quire_proto.messages.tenants import SetQuota, TenantUsage

from .declarations import one_at_a_time, saved
from .service import Service
from .task import Task

QUOTAS_DOCUMENT = "quotas"


@one_at_a_time
def set_quota(service: Service, _: Task, body: SetQuota) -> Slices[TenantUsage]:
    """Declare a quota; the same again changes nothing."""
    state, quota = service.state, Quota(body.limit, body.guarantee, body.weight)
    if not is_tenant(body.tenant):
        raise Refusal("BAD_FIELD", f"tenant: {TENANT_RULE}")
    account = state.accounts.find(body.tenant)
    problem = state.quotas.problem(account, quota)
    if problem:
        raise Refusal("CONFLICT", f"tenant {body.tenant[:80]}: {problem}")
    _refuse_below_held(state, body.tenant, quota)
    directory = service.state_dir
    if directory is not None:
        before = state.accounts.quotas()
        yield from saved(service, lambda: save(directory, before | {body.tenant: quota}))
        try:
            _refuse_below_held(state, body.tenant, quota)  # its requests may have got more meanwhile
        except Refusal:
            yield from saved(service, lambda: save(directory, before))
            raise
    account = declare(state, body.tenant, quota)
    trim(state, account)
    return state.accounts.usage_of(account)


def _refuse_below_held(state: State, tenant: str, quota: Quota) -> None:
    account = state.accounts.find(tenant)
    held = 0 if account is None else int(state.charges.held[account])
    if quota.limit and held > quota.limit:
        reason = f"its running requests hold {held} blocks: set the limit again when they have ended"
        raise Refusal("CONFLICT", f"tenant {tenant[:80]}: {reason}", {"held": held})


def declare(state: State, tenant: str, quota: Quota) -> int:
    """Enter a quota without a problem; returns the tenant's account."""
    account = state.accounts.number(tenant)
    state.accounts[account].declared = True
    if state.quotas.set(account, quota, state.charges):
        state.pool.policy.regroup()
    return account


def save(directory: StateDir, quotas: dict[str, Quota]) -> None:
    """Keep all quotas. Raises StateError."""
    rows = {name: {"limit": q.limit, "guarantee": q.guarantee, "weight": q.weight} for name, q in quotas.items()}
    directory.write(QUOTAS_DOCUMENT, {"tenants": rows})


def restore(directory: StateDir, state: State) -> None:
    """Declare the quotas that were kept. Raises StateError for a document that is not one or no longer fits."""
    document = directory.read(QUOTAS_DOCUMENT)
    if document is None:
        return
    where = f"{directory.path / QUOTAS_DOCUMENT}.json"
    rows = document.get("tenants")
    if not isinstance(rows, dict):
        raise StateError(f"{where}: tenants: not a map; repair it or move it away")
    for name, row in rows.items():
        quota = _quota(row)
        if quota is None or not is_tenant(name):
            raise StateError(f"{where}: {name[:80]!r} is not a tenant with a quota; repair it or move it away")
        problem = state.quotas.problem(state.accounts.find(name), quota)
        if problem:
            raise StateError(f"{where}: tenant {name}: {problem}; change it there, or give the pool more blocks")
        declare(state, name, quota)


def _quota(row: Any) -> Quota | None:
    if not isinstance(row, dict):
        return None
    numbers = [row.get("limit", 0), row.get("guarantee", 0), row.get("weight", DEFAULT_WEIGHT)]
    if set(row) - {"limit", "guarantee", "weight"} or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        return None
    return Quota(*numbers)
