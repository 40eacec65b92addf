"""The op table: for each op its body, its reply, and whether it is ordered. One table for both clients.

An entry also builds the body from Python arguments, so that the named methods of both clients
(``client.allocate(sequence=1, tenant="a", tokens=40)``) are made from the table: ``Method`` is a descriptor that
gives a plain function on a ``Blocking`` client and one that returns an awaitable on an ``Awaiting`` client. Adding
an op is one line here and one line in ``ReadOps`` or ``SessionOps``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, overload

from . import administration as a
from . import handover as h
from . import messages as m
from . import tenancy as t
from .packed import pack

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Op(Generic[P, R]):
    """One op. ``build`` makes the body, an instance of ``body``. An ``ordered`` op is applied strictly in the order
    of its session's numbers; for the others the number only correlates the reply. A ``deferred`` one is answered
    when something has happened: no reply yet is no sign of a lost one."""

    name: str
    body: type
    reply: type[R]
    build: Callable[P, Any]
    ordered: bool = False
    deferred: bool = False


def _step(message: m.Step) -> m.Step:
    return message


def _fork(parent: int, children: Iterable[int], tokens: int) -> m.Fork:
    return m.Fork(parent, pack(children), tokens)


def _free(sequences: Iterable[int]) -> m.Free:
    return m.Free(pack(sequences))


ATTACH = Op("attach", m.Attach, m.Attached, m.Attach)
HEARTBEAT = Op("heartbeat", m.Heartbeat, m.Alive, m.Heartbeat)
READY = Op("ready", m.Empty, m.Empty, m.Empty, ordered=True)
DETACH = Op("detach", m.Empty, m.Detached, m.Empty, ordered=True)
STEP = Op("step", m.Step, m.Stepped, _step, ordered=True)
ALLOCATE = Op("allocate", m.Allocate, m.Allocated, m.Allocate, ordered=True)
EXTEND = Op("extend", m.Extend, m.Extended, m.Extend, ordered=True)
FORK = Op("fork", m.Fork, m.Forked, _fork, ordered=True)
SEAL = Op("seal", m.Seal, m.Sealed, m.Seal, ordered=True)
FREE = Op("free", m.Free, m.Freed, _free, ordered=True)
OFFER = Op("offer", h.Offer, h.Offered, h.Offer, ordered=True)
ADOPT = Op("adopt", h.Adopt, h.Adopted, h.Adopt, ordered=True)
DOMAIN = Op("domain", m.Domain, m.DomainKey, m.Domain)
WAIT = Op("wait", m.Wait, m.Waited, m.Wait, deferred=True)
PUBLICATIONS = Op("publications", m.Empty, m.Publications, m.Empty)
LOOKUP = Op("lookup", m.Lookup, m.Found, m.Lookup)
STATS = Op("stats", m.Empty, m.Stats, m.Empty)
TENANTS = Op("tenants", m.Empty, t.Tenants, m.Empty)
QUOTA = Op("quota", t.SetQuota, t.TenantUsage, t.SetQuota)
PUBLISH = Op("publish", a.Publish, a.Published, a.Publish)
UNPUBLISH = Op("unpublish", a.Unpublish, m.Empty, a.Unpublish)
GROUPS = Op("groups", m.Empty, a.Groups, m.Empty)
JOIN = Op("join", a.Join, a.Groups, a.Join)
LEAVE = Op("leave", a.Leave, a.Groups, a.Leave)
EVENTS = Op("events", m.Empty, m.Events, m.Empty)


class Blocking:
    """A client whose calls return the reply."""

    def call(self, op: Op[..., R], body: object) -> R:
        """Send one request and return its reply; raises a ``QuireError``."""
        raise NotImplementedError


class Awaiting:
    """A client whose calls are awaited."""

    async def call(self, op: Op[..., R], body: object) -> R:
        """Send one request and return its reply; raises a ``QuireError``."""
        raise NotImplementedError


class Method(Generic[P, R]):
    """A named method of a client, made from an op."""

    def __init__(self, op: Op[P, R]) -> None:
        self.op = op
        self.__doc__ = op.body.__doc__

    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Awaitable[R]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Method[P, R]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self
        op = self.op

        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.call(op, op.build(*args, **kwargs))

        return call


class ReadOps:
    """Ops that need no session: reading, and administration."""

    lookup = Method(LOOKUP)
    stats = Method(STATS)
    tenants = Method(TENANTS)
    quota = Method(QUOTA)
    publish = Method(PUBLISH)
    unpublish = Method(UNPUBLISH)
    groups = Method(GROUPS)
    join = Method(JOIN)
    leave = Method(LEAVE)
    events = Method(EVENTS)
    fetch_publications = Method(PUBLICATIONS)


class SessionOps(ReadOps):
    """Ops of a ready session. Arguments are the fields of the body (PROTOCOL.md); ``step`` takes a ``Step``."""

    step = Method(STEP)
    allocate = Method(ALLOCATE)
    extend = Method(EXTEND)
    fork = Method(FORK)
    seal = Method(SEAL)
    free = Method(FREE)
    offer = Method(OFFER)
    adopt = Method(ADOPT)
    domain = Method(DOMAIN)
