"""Rules of sharing: prompts published and taken back, members that join and leave, and what is asked for then.

Engines know the list of publications as they last fetched it, so that names that are gone, generations that are past
and domains that a tenant has left are asked for all the time. What must be answered is the model's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from quire_proto import messages as m
from quire_proto.messages import sharing as a
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.codec import from_map, to_map
from quire_proto.wire.envelope import Reply, Request
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.proofs.engine import Branch, Engine
from tests.proofs.model_publications import PublishingModel
from tests.proofs.rules_sequences import PICK
from tests.proofs.world import SIZE, World

GROUP = "g"
# Published while the kvstore runs: to a block edge, one token past it, and less than a block.
PROMPTS = st.sampled_from([[0, 0, 0, 1], [0, 0, 0], [1], [1, 1, 1, 1, 0]])
TENANTS = st.sampled_from(["a", "b", "c"])
PEOPLE = st.sampled_from(["", "a", "b"])
NAMES = st.sampled_from("qr")
DOMAINS = st.sampled_from(["public", GROUP])


class PublishingRules:
    """What operators and members declare, and what engines make of it."""

    world: World
    model: PublishingModel
    active: Callable[[], list[Engine]]
    number: Callable[[], int]
    finish: Callable[[Engine, int, Branch, int], None]
    give_up: Callable[[Engine, int], None]
    do_allocate: Callable[..., None]
    do_ask: Callable[..., None]
    next_number: int

    def administer(self, op: str, body: Any) -> Reply:
        """One request of an operator."""
        return self.world.ask(Request(self.world.service.boot, b"", 1, op, 0, to_map(body)).encode())

    def generation(self) -> int:
        """What the list is called now, as any client can ask."""
        return from_map(m.Publications, self.administer("publications", m.Empty()).body).generation

    @rule(name=NAMES, domain=DOMAINS, prompt=PROMPTS, tenant=PEOPLE)
    def publish(self, name: str, domain: str, prompt: list[int], tenant: str) -> None:
        """For all tenants by the operator, for a group by a member, or refused."""
        self.do_publish(name, domain, prompt, tenant)

    def do_publish(self, name: str, domain: str, prompt: list[int], tenant: str) -> None:
        self.world.domains.share(domain, prompt)
        code = self.model.publish(name, domain, prompt, tenant)
        reply = self.administer("publish", a.Publish(name, domain, pack_u32(prompt), tenant))
        assert reply.code == code
        if not code:
            self.model.published(name, domain, prompt, from_map(a.Published, reply.body).generation)

    @rule(name=NAMES, tenant=PEOPLE)
    def unpublish(self, name: str, tenant: str) -> None:
        """Taken back, if the tenant may; sequences that share it live on."""
        code = self.model.unpublish(name, tenant)
        assert self.administer("unpublish", a.Unpublish(name, tenant)).code == code
        if not code:
            self.model.vanish(name)
            self.model.moved(self.generation())

    @rule(tenant=TENANTS, joins=st.booleans())
    def come_or_go(self, tenant: str, joins: bool) -> None:
        """A tenant joins the group, or leaves it."""
        if joins:
            self.world.domains.entitle(GROUP, tenant)
        body = a.Join(tenant, GROUP) if joins else a.Leave(tenant, GROUP)
        assert self.administer("join" if joins else "leave", body).code == ""
        (self.model.joined if joins else self.model.departed)(tenant, GROUP, self.generation())

    @precondition(lambda self: self.active())
    @rule(
        peer=PICK, tenant=TENANTS, which=PICK, more=st.lists(st.integers(0, 1), max_size=4),
        fresh=st.booleans(), named=st.booleans(), how=st.sampled_from(["keep", "wait", "finish"]),
    )  # fmt: skip
    def allocate_published(
        self, peer: int, tenant: str, which: int, more: list[int], fresh: bool, named: bool, how: str
    ) -> None:
        """A request that begins with a publication which its engine knows, entitled to it or not."""
        engine = self.active()[peer % len(self.active())]
        if fresh:
            engine.fetch()
        known = engine.listed.publications[which % len(engine.listed.publications)]
        self.begin_with(engine, tenant, known, more, engine.listed.generation if named else 0, how)

    def begin_with(
        self, engine: Engine, tenant: str, known: m.Publication, more: list[int], last: int, how: str
    ) -> None:
        """Begun to be kept, waited for if another computes it, or served to its end and given up."""
        tokens = list(unpack_u32(known.tokens)) + more
        if how == "wait":
            self.do_ask(engine, tenant, tokens, 0, known, last)
            return
        self.do_allocate(engine, tenant, tokens, 1, known, last)
        number = self.next_number
        if how == "finish" and number in engine.branches:
            self.finish(engine, number, engine.branches[number], 0)
            self.give_up(engine, number)

    @precondition(lambda self: self.active())
    @rule(
        peer=PICK, domain=DOMAINS, prompt=PROMPTS, more=st.lists(st.integers(0, 1), max_size=3),
        end=st.sampled_from(["unpublished", "replaced", "left"]),
    )  # fmt: skip
    def share(self, peer: int, domain: str, prompt: list[int], more: list[int], end: str) -> None:
        """The life of a publication: two tenants share it; it is taken back or replaced, or one leaves the group."""
        engine = self.active()[peer % len(self.active())]
        for tenant in "ab":
            self.come_or_go(tenant, True)
        self.do_publish("q", domain, prompt, "")
        engine.fetch()
        known = next((known for known in engine.listed.publications if known.id == "q"), None)
        if known is None:
            return  # no budget for it
        for tenant, how in zip("ab", ("finish", "keep"), strict=True):
            self.begin_with(engine, tenant, known, more, 0, how)
        if end == "unpublished":
            self.unpublish("q", "")
        elif end == "replaced":
            self.do_publish("q", domain, [1, *prompt], "")
        else:
            self.come_or_go("b", False)
        self.begin_with(engine, "b", known, more, 0, "keep")
        engine.fetch()
        for again in [again for again in engine.listed.publications if again.id == "q"]:
            self.begin_with(engine, "b", again, more, engine.listed.generation, "keep")

    @precondition(lambda self: self.active())
    @rule(peer=PICK, which=PICK)
    def prefill(self, peer: int, which: int) -> None:
        """A pending publication is computed for its domain, before any request has asked for it."""
        engine, number = self.active()[peer % len(self.active())], self.number()
        known = engine.listed.publications[which % len(engine.listed.publications)]
        tokens = list(unpack_u32(known.tokens))
        item = m.Allocate(number, "", len(tokens), b"", known.id, known.generation)
        reply: m.Allocated = engine.ok("allocate", item, m.Allocated)
        self.model.allocated(engine.id, item, reply, self.world.store)
        if reply.code == m.OK:
            engine.allocated(number, item, DomainChain(bytes(32), SIZE, tokens), reply, known.domain)
            self.finish(engine, number, engine.branches[number], 0)
            self.give_up(engine, number)
