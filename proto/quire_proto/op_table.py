"""The op table: for each op its body, its reply, its order, and what it needs of its peer. There is no other.

The client builds its calls on it, the kvstore its checks. Adding an op is one line here, one method in ``calls`` and
one handler in the kvstore; tests compare the three.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from quire_proto.messages import handoff as h
from quire_proto.messages import pool_map as p
from quire_proto.messages import sharing as a
from quire_proto.messages import tenants as t

from . import messages as m

_R = TypeVar("_R")


class Needs(StrEnum):
    """What an op needs of the peer that asks for it."""

    ANY_PEER = "any peer"  # it may name no session
    SESSION = "session"  # one that is not fenced
    WRITABLE = "writable"  # such a session, attached with the side socket's token
    ACTIVE = "active"  # a writable one that is ready
    ENDING = "ending"  # any session, even a fenced one


@dataclass(frozen=True, slots=True)
class Op(Generic[_R]):
    """One op.

    Attributes:
        ordered: whether it is applied strictly in the order of its session's numbers; for the others the number only
            correlates the reply.
        deferred: whether it is answered when something has happened: no reply yet is no sign of a lost one.
    """

    name: str
    body: type
    reply: type[_R]
    needs: Needs
    ordered: bool = False
    deferred: bool = False


OPS: dict[str, Op[Any]] = {}


def _op(
    name: str,
    body: type,
    reply: type[_R],
    needs: Needs = Needs.ANY_PEER,
    *,
    ordered: bool = False,
    deferred: bool = False,
) -> Op[_R]:
    """Enter an op into the table."""
    op = Op(name, body, reply, needs, ordered, deferred)
    OPS[name] = op
    return op


ATTACH = _op("attach", m.Attach, m.Attached)
HEARTBEAT = _op("heartbeat", m.Heartbeat, m.Alive, Needs.SESSION)
READY = _op("ready", m.Empty, m.Empty, Needs.WRITABLE, ordered=True)
DETACH = _op("detach", m.Empty, m.Detached, Needs.ENDING, ordered=True)
STEP = _op("step", m.Step, m.Stepped, Needs.ACTIVE, ordered=True)
ALLOCATE = _op("allocate", m.Allocate, m.Allocated, Needs.ACTIVE, ordered=True)
EXTEND = _op("extend", m.Extend, m.Extended, Needs.ACTIVE, ordered=True)
FORK = _op("fork", m.Fork, m.Forked, Needs.ACTIVE, ordered=True)
SEAL = _op("seal", m.Seal, m.Sealed, Needs.ACTIVE, ordered=True)
FREE = _op("free", m.Free, m.Freed, Needs.ACTIVE, ordered=True)
OFFER = _op("offer", h.Offer, h.Offered, Needs.ACTIVE, ordered=True)
ADOPT = _op("adopt", h.Adopt, h.Adopted, Needs.ACTIVE, ordered=True)
DOMAIN = _op("domain", m.Domain, m.DomainKey, Needs.WRITABLE)
WAIT = _op("wait", m.Wait, m.Waited, Needs.ACTIVE, deferred=True)
PUBLICATIONS = _op("publications", m.Empty, m.Publications)
LOOKUP = _op("lookup", m.Lookup, m.Found)
STATS = _op("stats", m.AskStats, m.Stats)
POOL_MAP = _op("pool_map", p.AskPoolMap, p.PoolMap)
BLOCK = _op("block", p.AskBlock, p.BlockInfo)
TENANTS = _op("tenants", m.Empty, t.Tenants)
QUOTA = _op("quota", t.SetQuota, t.TenantUsage)
PUBLISH = _op("publish", a.Publish, a.Published)
UNPUBLISH = _op("unpublish", a.Unpublish, m.Empty)
GROUPS = _op("groups", m.Empty, a.Groups)
JOIN = _op("join", a.Join, a.Groups)
LEAVE = _op("leave", a.Leave, a.Groups)
EVENTS = _op("events", m.Empty, m.Events)
