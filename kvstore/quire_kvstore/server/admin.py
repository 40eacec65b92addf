"""Administration: the handlers of publish, unpublish, groups, join and leave.

What a peer may: it is this machine's operator, for it reaches the kvstore's socket, or acts for a tenant and then names
it. The operator may publish for all tenants, a member for its group; a member may take back what its group published.
Names are judged here once; the store's moves (``publish``) assume them right. A declaration is on the disk before it
counts: if it cannot be saved nothing changed.
"""

from __future__ import annotations

from collections.abc import Callable

from quire_kvstore.errors import Refusal
from quire_kvstore.host.saved import Declarations
from quire_kvstore.ops import publish
from quire_kvstore.ops.slices import Slices
from quire_kvstore.sharing.groups import PUBLIC, RESERVED, Groups, is_name
from quire_kvstore.sharing.publications import MAX_VARIANTS, PublishedPrompt
from quire_proto import messages as m
from quire_proto.messages import sharing as a
from quire_proto.wire.publication_ids import is_publication_id, prompt_id

from .declarations import one_at_a_time, saved
from .service import Service
from .task import Task

NAME_RULE = "1 to 64 letters, digits or ._-, a letter or digit first"


@one_at_a_time
def on_publish(service: Service, _: Task, body: a.Publish) -> Slices[a.Published]:
    """Put a prompt into a share domain; the same again changes nothing."""
    state = service.state
    if not is_publication_id(body.id):
        raise Refusal("BAD_FIELD", f"id: {NAME_RULE}; a variant has @ and 8 hexadecimal digits behind that")
    if not body.tokens:
        raise Refusal("BAD_FIELD", "tokens: a publication has at least one")
    _may_publish(state.groups, body.domain, body.tenant)
    old = state.publications.get(body.id)
    variants = state.publications.variants(body.id)
    if any(other.domain != body.domain for other in variants):
        raise Refusal("CONFLICT", f"the id {prompt_id(body.id)!r} is taken in another domain: choose another")
    if old is None and len(variants) >= MAX_VARIANTS:
        raise Refusal("CONFLICT", f"{prompt_id(body.id)!r} has {MAX_VARIANTS} variants, as many as one may have")
    if old is not None and old.packed == body.tokens:
        return _reply(old)
    count = len(body.tokens) // 4
    short = publish.pin_shortage(state, body.id, count)
    if short:
        reason = (
            f"{count} tokens are {short} blocks more than publications may pin: unpublish others or raise pin_budget"
        )
        raise Refusal("CONFLICT", reason, {"missing": short})
    wanted = PublishedPrompt(body.id, body.domain, body.tokens, 0, 0)
    yield from _save(service, lambda keep: keep.save_publication(wanted))
    return _reply(publish.publish(state, body.id, body.domain, body.tokens))


@one_at_a_time
def on_unpublish(service: Service, _: Task, body: a.Unpublish) -> Slices[m.Empty]:
    """Take a prompt back: no new matches."""
    state = service.state
    published = state.publications.get(body.id)
    if published is None or (body.tenant and not state.groups.entitled(body.tenant, published.domain)):
        raise Refusal("NOT_FOUND", f"no publication {body.id[:80]!r}")
    if body.tenant:  # the operator's word counts for a group that has lost its members, too
        _may_publish(state.groups, published.domain, body.tenant)
    yield from _save(service, lambda keep: keep.forget_publication(published.id))
    publish.unpublish(state, published)
    return m.Empty()


def on_groups(service: Service, _: Task, __: m.Empty) -> a.Groups:
    """All groups with their members."""
    return _groups(service.state.groups)


@one_at_a_time
def on_join(service: Service, _: Task, body: a.Join) -> Slices[a.Groups]:
    """Make a tenant a member of a group; a member stays one."""
    state = service.state
    _named(tenant=body.tenant, group=body.group)
    if body.group in RESERVED:
        raise Refusal("BAD_FIELD", f"group: {body.group!r} is reserved: it names what belongs to no group")
    if not state.groups.entitled(body.tenant, body.group):
        after = state.groups.copy()
        after.join(body.tenant, body.group)
        yield from _save(service, lambda keep: keep.save_groups(after))
        publish.join(state, body.tenant, body.group)
    return _groups(state.groups)


@one_at_a_time
def on_leave(service: Service, _: Task, body: a.Leave) -> Slices[a.Groups]:
    """End a tenant's membership; what is no member stays none."""
    state = service.state
    _named(tenant=body.tenant, group=body.group)
    if (body.group, body.tenant) in state.groups.declared:
        raise Refusal("CONFLICT", f"{body.tenant} is in {body.group} by configuration: remove it there and restart")
    if body.group != PUBLIC and state.groups.entitled(body.tenant, body.group):
        after = state.groups.copy()
        after.leave(body.tenant, body.group)
        yield from _save(service, lambda keep: keep.save_groups(after))
        publish.leave(state, body.tenant, body.group)
    return _groups(state.groups)


def _named(**names: str) -> None:
    for field, name in names.items():
        if not is_name(name):
            raise Refusal("BAD_FIELD", f"{field}: {NAME_RULE}")


def _may_publish(known: Groups, domain: str, tenant: str) -> None:
    """Raise Refusal unless the operator (``tenant`` empty) or this tenant may change what a domain shares."""
    if not tenant:
        if domain != PUBLIC and not known.has_members(domain):
            raise Refusal("BAD_FIELD", f"domain: {PUBLIC!r}, or a group that has members; {domain[:80]!r} has none")
    elif domain == PUBLIC or not known.entitled(tenant, domain):
        raise Refusal("NOT_PERMITTED", f"tenant {tenant[:80]!r} may publish to its own groups only")


def _reply(published: PublishedPrompt) -> a.Published:
    return a.Published(published.generation, published.count, published.state)


def _groups(known: Groups) -> a.Groups:
    return a.Groups(tuple(a.Member(group, tenant, known.generation(group)) for group, tenant in known.members()))


def _save(service: Service, save: Callable[[Declarations], None]) -> Slices[None]:
    """Put a declaration on the disk, if there is one; raises Refusal if that fails."""
    keep = service.declarations
    if keep is not None:
        yield from saved(service, lambda: save(keep))
