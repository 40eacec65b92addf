"""Handlers: what carries each op out, by its name. What an op needs is in ``quire_proto.op_table``.

``dispatch`` makes the checks that the table demands, once for all ops; a handler is only its logic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quire_kvstore.blocks.pool import STATE_NAMES
from quire_kvstore.errors import Refusal
from quire_kvstore.events.catalogue import ALL_TOKENS
from quire_kvstore.ops import allocate, extend, fork, free, handoff, lifecycle, query, seal, step, wait
from quire_kvstore.ops.slices import Slices
from quire_kvstore.state import State
from quire_kvstore.tenants.accounts import TENANT_RULE, is_tenant
from quire_kvstore.views.holders import block_info
from quire_proto import messages as m
from quire_proto.messages import handoff as h
from quire_proto.messages.pool_map import AskBlock, BlockInfo
from quire_proto.messages.tenants import Tenants
from quire_proto.wire.digests import DIGEST_BYTES, domain_key
from quire_proto.wire.envelope import ID_BYTES
from quire_proto.wire.u32 import U32_MAX

from . import admin
from .quota import set_quota
from .service import Service
from .task import Task

MAX_NAME_CHARS = 256


def _attach(service: Service, task: Task, body: m.Attach) -> m.Attached:
    if len(body.nonce) != ID_BYTES or len(body.token) not in (0, ID_BYTES) or len(body.name) > MAX_NAME_CHARS:
        raise Refusal("BAD_FIELD", f"nonce and token are {ID_BYTES} bytes, a name at most {MAX_NAME_CHARS} characters")
    if body.layout is not None and (differing := service.layout.differences(body.layout)):
        raise Refusal("LAYOUT_MISMATCH", f"the pool has another {', '.join(differing)}", {"fields": differing})
    if body.gpu_uuid not in ("", service.gpu_uuid):
        where = f"on GPU {service.gpu_uuid}" if service.gpu_uuid else "in host memory"
        fix = "give both processes one GPU (CUDA_VISIBLE_DEVICES), on MIG one instance, or set kvstore.arena"
        reason = f"the pool is {where}, the engine on {body.gpu_uuid[:80]}: {fix}"
        raise Refusal("LAYOUT_MISMATCH", reason, {"fields": ["gpu_uuid"]})
    session = service.attach(body.nonce, body.token, body.name, task.now_ms)
    publications = service.state.publications
    return m.Attached(
        session=session.id,
        lease_ms=service.lease_ms,
        limits=service.limits,
        layout=service.layout,
        num_blocks=service.num_blocks,
        arena=service.arena,
        publications=publications.messages(),
        publications_generation=publications.generation,
        wants_tokens=service.events is not None and service.events.tokens == ALL_TOKENS,
    )


def _ready(_: Service, task: Task, __: m.Empty) -> m.Empty:
    lifecycle.ready(task.session)
    return m.Empty()


def _heartbeat(service: Service, task: Task, body: m.Heartbeat) -> m.Alive:
    lifecycle.heartbeat(task.session, body.progress, task.now_ms, service.lease_ms)
    return m.Alive(service.lease_ms, service.state.publications.generation)


def _detach(service: Service, task: Task, __: m.Empty) -> m.Detached:
    return m.Detached(free.reclaim(service.state, task.session))


def _offer(service: Service, task: Task, body: h.Offer) -> h.Offered:
    return h.Offered(m.OK, handoff.offer(service.state, task.session, body, service.fresh_id(), task.now_ms).id)


def _domain(service: Service, _: Task, body: m.Domain) -> m.DomainKey:
    groups = service.state.groups
    if not is_tenant(body.tenant):
        raise Refusal("BAD_FIELD", f"tenant: {TENANT_RULE}")
    if body.group:
        # The same for a group that does not exist: a tenant that is no member learns nothing of it.
        if not groups.entitled(body.tenant, body.group):
            raise Refusal("NOT_PERMITTED", f"tenant {body.tenant[:80]!r} is no member of {body.group[:80]!r}")
        generation = groups.generation(body.group)
        return m.DomainKey(domain_key(service.root_key, f"group:{body.group}", generation), generation)
    # A tenant's domain has its own name space, so that no tenant can be called like a shared domain.
    key = domain_key(service.root_key, f"tenant:{body.tenant}", service.domain_generation)
    return m.DomainKey(key, service.domain_generation, groups.domains(body.tenant))


def _publications(service: Service, _: Task, __: m.Empty) -> m.Publications:
    publications = service.state.publications
    return m.Publications(publications.messages(), publications.generation)


def _lookup(service: Service, _: Task, body: m.Lookup) -> m.Found:
    found = query.lookup(service.state, body)
    if found is None:
        raise Refusal("NOT_FOUND", f"no publication {body.publication[:80]!r}")
    return found


def _stats(service: Service, task: Task, body: m.AskStats) -> m.Stats:
    state = service.state
    counts, publications = state.pool.counts(), state.publications.messages()
    if body.brief:
        publications = tuple(replace(publication, tokens=b"") for publication in publications)
    return m.Stats(
        boot=service.boot,
        version=service.version,
        layout=service.layout,
        uptime_ms=task.now_ms - service.started_ms,
        num_blocks=service.num_blocks,
        blocks={"total": counts["total"], **{name: counts[name] for name in STATE_NAMES}},
        slots={} if body.brief else query.slots(state),
        counters=state.counters.as_dict(),
        sessions=query.sessions(state, task.now_ms),
        publications=publications,
        ops={op: times.count for op, times in service.op_times.items()},
        claims=len(state.claims.all()),
        waits=state.claims.waits,
        op_times={op: times.distribution() for op, times in service.op_times.items()},
        weights=service.weights(),
    )


def _wait(service: Service, task: Task, body: m.Wait) -> m.Waited | None:
    if body.sequence in task.session.sequences:
        raise Refusal("CONFLICT", f"sequence {body.sequence} has its table: it waits for nothing")
    if body.sequence > U32_MAX or body.priority > U32_MAX:
        raise Refusal("BAD_FIELD", f"sequence and priority: at most {U32_MAX}")
    if len(body.digest) != (0 if body.publication else DIGEST_BYTES):
        raise Refusal("BAD_FIELD", "digest: one digest, or none and a publication")
    state = wait.wait(service.state, task.session, body, task.ticket, task.until_ms)
    return None if state is None else m.Waited(state)


def _tenants(service: Service, _: Task, __: m.Empty) -> Tenants:
    return Tenants(service.state.accounts.usage())


def _block(service: Service, _: Task, body: AskBlock) -> Slices[BlockInfo]:
    if not 0 <= body.block < service.num_blocks:
        raise Refusal("BAD_FIELD", f"block: 0 to {service.num_blocks - 1}")
    return block_info(service.state, body.block)


def _events(service: Service, _: Task, __: m.Empty) -> m.Events:
    if service.events is None:
        raise Refusal("UNSUPPORTED", "this kvstore publishes no events: start it with --events")
    return service.events


# Ops on the sequences of its session: (state, session, body) -> reply body, or the slices that return it (``slices``).
SEQUENCE_OPS: dict[str, Callable[[State, Any, Any], Any]] = {
    "allocate": allocate.allocate,
    "extend": extend.extend,
    "fork": fork.fork,
    "seal": seal.seal,
    "free": free.free,
}
# All others: (service, task, body) -> the same, or None: the reply is deferred.
HANDLERS: dict[str, Callable[[Service, Task, Any], Any]] = {
    "attach": _attach,
    "ready": _ready,
    "heartbeat": _heartbeat,
    "detach": _detach,
    "step": lambda service, task, body: step.step(service.state, task.session, body, service.fresh_id, task.now_ms),
    "offer": _offer,
    "adopt": lambda service, task, body: handoff.adopt(service.state, task.session, body.offer, body.sequence),
    "domain": _domain,
    "publications": _publications,
    "lookup": _lookup,
    "stats": _stats,
    "pool_map": lambda service, _, body: service.cells.answer(body),
    "block": _block,
    "tenants": _tenants,
    "quota": set_quota,
    "wait": _wait,
    "publish": admin.on_publish,
    "unpublish": admin.on_unpublish,
    "groups": admin.on_groups,
    "join": admin.on_join,
    "leave": admin.on_leave,
    "events": _events,
}
