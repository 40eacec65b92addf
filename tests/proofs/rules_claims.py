"""Rules of claims: sequences that rather wait than compute what another one computes, and come back or do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from quire_kvstore.server.task import Task
from quire_proto import messages as m
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.codec import from_map, to_map
from quire_proto.wire.envelope import Request, decode_reply, decode_request
from quire_proto.wire.u32 import pack_u32
from tests.proofs.engine import Branch, Engine
from tests.proofs.model_claims import ClaimModel
from tests.proofs.rules_sequences import BEGINNINGS, PICK
from tests.proofs.world import SIZE, World


@dataclass(eq=False)
class Asked:
    """A sequence that was told CLAIMED. ``tickets``: numbers of its waits; ``frame``: the last of them in bytes."""

    engine: Engine
    item: m.Allocate
    chain: DomainChain
    domain: str
    claimed: bytes
    frame: bytes = b""


class ClaimRules:
    """What engines do that wait for each other."""

    world: World
    model: ClaimModel
    active: Callable[[], list[Engine]]
    number: Callable[[], int]
    do_allocate: Callable[..., None]
    complete_one: Callable[[Engine, bool], None]
    finish: Callable[[Engine, int, Branch, int], None]
    give_up: Callable[[Engine, int], None]
    next_number: int
    tickets: int
    asked: list[Asked]

    def waiting(self) -> list[Asked]:
        """Those whose engine can still act."""
        self.asked = [a for a in self.asked if a.engine in self.active()]
        return self.asked

    @precondition(lambda self: self.active())
    @rule(peer=PICK, tenant=st.sampled_from("ab"), begin=BEGINNINGS, more=st.integers(0, 3), priority=st.integers(0, 2))
    def ask(self, peer: int, tenant: str, begin: list[int], more: int, priority: int) -> None:
        self.do_ask(self.active()[peer % len(self.active())], tenant, begin + [1] * more, priority, None)

    def do_ask(
        self, engine: Engine, tenant: str, tokens: list[int], priority: int, known: m.Publication | None, last: int = 0
    ) -> None:
        """Allocate, ready to wait."""
        number, chain = self.number(), engine.chain(tenant, tokens)
        name, generation = (known.id, known.generation) if known else ("", 0)
        asked = m.Allocate(number, tenant, len(tokens), chain.digests(), name, generation, priority=priority)
        item = replace(asked, may_wait=1, list_generation=last)
        self.send(engine, item, chain, known.domain if known else "")

    def send(self, engine: Engine, item: m.Allocate, chain: DomainChain, domain: str) -> None:
        """The allocate, and what its answer means for the engine."""
        reply: m.Allocated = engine.ok("allocate", item, m.Allocated)
        self.model.allocated(engine.id, item, reply, self.world.store)
        self.asked = [a for a in self.asked if (a.engine, a.item.sequence) != (engine, item.sequence)]
        if reply.code == m.OK:
            engine.allocated(item.sequence, item, chain, reply, domain)
        elif reply.code == m.CLAIMED:
            self.asked.append(Asked(engine, item, chain, domain, reply.claimed))

    @precondition(lambda self: self.waiting())
    @rule(which=PICK, lives=st.integers(1, 200), at=PICK)
    def wait(self, which: int, lives: int, at: int) -> None:
        """For the last block that is being computed, or for an earlier one."""
        asked = self.waiting()[which % len(self.waiting())]
        self.do_wait(asked, lives, at % max(1, len(asked.claimed) // 32))

    def do_wait(self, asked: Asked, lives: int, back: int = 0) -> None:
        item, end = asked.item, len(asked.claimed) - 32 * back
        digest = asked.claimed[end - 32 : end] if end else b""
        publication = "" if digest else item.publication
        self.tickets += 1
        number = (1 << 62) + self.tickets
        body = m.Wait(item.sequence, digest, publication, item.priority, item.publication_generation)
        self.send_wait(asked, body, number, lives)

    def send_wait(self, asked: Asked, body: m.Wait, number: int, lives: int) -> None:
        """The wait, and what can be said of it at once."""
        asked.frame = Request(asked.engine.boot, asked.engine.id, number, "wait", lives, to_map(body)).encode()
        told = self.model.wait(asked.engine.id, body, number, self.world.now + lives)
        reply = self.world.dispatch.handle(Task(b"peer", [asked.frame], self.world.now), self.world.now)
        state = None if reply is None else from_map(m.Waited, decode_reply(reply).body).state
        assert state == told, "what can be said at once"

    @precondition(lambda self: self.waiting() and self.model.claims)
    @rule(which=PICK, index=PICK, lives=st.integers(1, 200))
    def wait_for_another(self, which: int, index: int, lives: int) -> None:
        """For a block that another computes for a third: a successor that does so gives up what it inherited."""
        asked = self.waiting()[which % len(self.waiting())]
        names = sorted(name for claim in self.model.claims.values() for name in claim.open if len(name) == 32)
        if names:
            self.tickets += 1
            body = m.Wait(asked.item.sequence, names[index % len(names)], priority=asked.item.priority)
            self.send_wait(asked, body, (1 << 62) + self.tickets, lives)

    @precondition(lambda self: self.waiting())
    @rule(which=PICK, parent=PICK)
    def fork_into_a_wait(self, which: int, parent: int) -> None:
        """A number that waits, or inherited a claim, is in use: no fork gives it a table."""
        asked = self.waiting()[which % len(self.waiting())]
        engine, number = asked.engine, asked.item.sequence
        if engine.branches and self.model.waits((engine.id, number)):
            parents = list(engine.branches)
            fork = m.Fork(parents[parent % len(parents)], pack_u32([self.number(), number]), 0)
            assert engine.ok("fork", fork, m.Forked).code == m.CONFLICT

    @precondition(lambda self: any(wait for claim in self.model.claims.values() for wait in claim.waits))
    @rule(which=PICK)
    def wait_again(self, which: int) -> None:
        """The same bytes again while the wait lasts: it changes nothing, and there is one answer."""
        open_tickets = {w.ticket for claim in self.model.claims.values() for w in claim.waits.values()}
        lasting = [a for a in self.waiting() if a.frame and _number(a.frame) in open_tickets]
        if lasting:
            frame = lasting[which % len(lasting)].frame
            assert self.world.dispatch.handle(Task(b"peer", [frame], self.world.now), self.world.now) is None

    @precondition(lambda self: self.waiting())
    @rule(which=PICK, may_wait=st.integers(0, 1))
    def come_back(self, which: int, may_wait: int) -> None:
        """Allocate again, told to or not."""
        asked = self.waiting()[which % len(self.waiting())]
        body: Any = to_map(asked.item) | {"may_wait": may_wait}
        self.send(asked.engine, from_map(m.Allocate, body), asked.chain, asked.domain)

    @precondition(lambda self: self.waiting())
    @rule(which=PICK)
    def walk_away(self, which: int) -> None:
        """Wait no more: a claim that had passed to it passes on."""
        asked = self.waiting()[which % len(self.waiting())]
        self.asked.remove(asked)
        reply: m.Freed = asked.engine.ok("free", m.Free(pack_u32([asked.item.sequence])), m.Freed)
        assert reply.codes[0] == self.model.free(asked.engine.id, asked.item.sequence)

    @precondition(lambda self: self.active())
    @rule(
        peer=PICK, waiter=PICK, tenant=st.sampled_from("ab"), begin=BEGINNINGS, finish=st.booleans(), come=st.booleans()
    )
    def herd(self, peer: int, waiter: int, tenant: str, begin: list[int], finish: bool, come: bool) -> None:
        """One computes a prompt, two wait for it; it computes to the end, or gives up half-way."""
        engine, other = (self.active()[i % len(self.active())] for i in (peer, waiter))
        self.do_allocate(engine, tenant, [*begin, 1], 0, None)
        number = self.next_number
        for priority in (1, 0):
            self.do_ask(other, tenant, [*begin, 1], priority, None)
        mine = [a for a in self.waiting() if a.engine is other and a.item.sequence > number]
        for asked in mine:
            self.do_wait(asked, 100)
        branch = engine.branches.get(number)
        if branch is not None:
            if finish:
                # One block first: some of the claim is sealed and some is not, and waits are heard in between.
                engine.launch(branch, min(branch.launched + SIZE, branch.writable), 0)
                while any(work.branch is branch for work in engine.work):
                    self.complete_one(engine, True)
                self.hear()
                self.finish(engine, number, branch, 0)
            self.give_up(engine, number)
        for asked in mine if come else []:
            self.send(asked.engine, asked.item, asked.chain, asked.domain)

    def hear(self) -> None:
        """Every wait that should have ended was answered once and rightly, and no other."""
        heard = []
        for _, frame in self.world.dispatch.deferred(self.world.now):
            reply = decode_reply(frame)
            assert reply.code in ("", "STALE_SESSION")
            heard.append((reply.number, "stale" if reply.code else reply.body["state"]))
        assert sorted(heard) == sorted(self.model.told), "answers to waits"
        self.model.told = []


def _number(frame: bytes) -> int:
    return decode_request(frame).number
