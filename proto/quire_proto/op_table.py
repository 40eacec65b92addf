"""The op table of the client: for each op its body, its reply, and whether it is ordered.

Adding an op is one line here and one method in ``calls``; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from quire_proto.messages import handoff as h
from quire_proto.messages import sharing as a
from quire_proto.messages import tenants as t

from . import messages as m

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Op(Generic[R]):
    """One op. An ``ordered`` one is applied strictly in the order of its session's numbers; for the others the number
    only correlates the reply. A ``deferred`` one is answered when something has happened: no reply yet is no sign of a
    lost one."""

    name: str
    body: type
    reply: type[R]
    ordered: bool = False
    deferred: bool = False


ATTACH = Op("attach", m.Attach, m.Attached)
HEARTBEAT = Op("heartbeat", m.Heartbeat, m.Alive)
READY = Op("ready", m.Empty, m.Empty, ordered=True)
DETACH = Op("detach", m.Empty, m.Detached, ordered=True)
STEP = Op("step", m.Step, m.Stepped, ordered=True)
ALLOCATE = Op("allocate", m.Allocate, m.Allocated, ordered=True)
EXTEND = Op("extend", m.Extend, m.Extended, ordered=True)
FORK = Op("fork", m.Fork, m.Forked, ordered=True)
SEAL = Op("seal", m.Seal, m.Sealed, ordered=True)
FREE = Op("free", m.Free, m.Freed, ordered=True)
OFFER = Op("offer", h.Offer, h.Offered, ordered=True)
ADOPT = Op("adopt", h.Adopt, h.Adopted, ordered=True)
DOMAIN = Op("domain", m.Domain, m.DomainKey)
WAIT = Op("wait", m.Wait, m.Waited, deferred=True)
PUBLICATIONS = Op("publications", m.Empty, m.Publications)
LOOKUP = Op("lookup", m.Lookup, m.Found)
STATS = Op("stats", m.Empty, m.Stats)
TENANTS = Op("tenants", m.Empty, t.Tenants)
QUOTA = Op("quota", t.SetQuota, t.TenantUsage)
PUBLISH = Op("publish", a.Publish, a.Published)
UNPUBLISH = Op("unpublish", a.Unpublish, m.Empty)
GROUPS = Op("groups", m.Empty, a.Groups)
JOIN = Op("join", a.Join, a.Groups)
LEAVE = Op("leave", a.Leave, a.Groups)
EVENTS = Op("events", m.Empty, m.Events)
