"""Rules of the wire and of handing over: requests that come twice, too early, or changed; offers and adoptions."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from quire_kvstore.sessions.reply_window import WINDOW
from quire_proto import messages as m
from quire_proto.messages import handoff as h
from quire_proto.wire.envelope import decode_reply
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.proofs.engine import Branch, Engine
from tests.proofs.model_moves import FullModel
from tests.proofs.rules_sequences import PICK
from tests.proofs.world import World


class WireRules:
    """Duplicates and reorderings change nothing and are answered as the protocol says."""

    world: World
    engines: list[Engine]

    @precondition(lambda self: self.engines)
    @rule(peer=PICK, back=st.integers(0, 11))
    def resend(self, peer: int, back: int) -> None:
        """The same bytes again: the same reply while it is in the window, an error later, never a second effect."""
        engine = self.engines[peer % len(self.engines)]
        number, frame, reply = list(engine.sent)[-1 - back % len(engine.sent)]
        again = self.world.answer(frame)
        if engine.number - number < WINDOW:
            assert again == reply
        else:
            assert decode_reply(again).code == "NUMBER_REUSED"

    @precondition(lambda self: self.engines)
    @rule(peer=PICK, ahead=st.integers(2, 9))
    def overtake(self, peer: int, ahead: int) -> None:
        """A request that overtook an earlier one is not executed and not consumed."""
        engine = self.engines[peer % len(self.engines)]
        numbers = tuple(engine.branches)
        reply = self.world.ask(engine.frame("free", m.Free(pack_u32(numbers)), engine.number + ahead))
        assert (reply.code, reply.body["detail"]) == ("OUT_OF_ORDER", {"expected": engine.number + 1})

    @precondition(lambda self: self.engines)
    @rule(peer=PICK)
    def reuse(self, peer: int) -> None:
        """A used number with other bytes is an error."""
        engine = self.engines[peer % len(self.engines)]
        frame = engine.frame("free", m.Free(pack_u32([1 << 30])), engine.number)
        assert self.world.ask(frame).code == "NUMBER_REUSED"


class OfferRules:
    """A live sequence goes from one engine to another, or stays where it was."""

    world: World
    model: FullModel
    active: Callable[[], list[Engine]]
    branches: Callable[[], list[tuple[Engine, int, Branch]]]
    number: Callable[[], int]

    def quiesced(self) -> list[tuple[Engine, int, Branch]]:
        """Branches without work under way, copies or an offer."""
        return [
            (e, n, b)
            for e, n, b in self.branches()
            if not any(w.branch is b for w in e.work)
            and not b.copies
            and not self.model.holders[e.id].rows[n].copies
            and not self.model.holders[e.id].rows[n].offer
        ]

    @precondition(lambda self: self.quiesced() and len(self.active()) > 1)
    @rule(which=PICK, recipient=PICK, lives=st.integers(1, 150))
    def offer(self, which: int, recipient: int, lives: int) -> None:
        self.do_offer(which, recipient, lives)

    def do_offer(self, which: int, recipient: int, lives: int) -> None:
        every = self.quiesced()
        engine, number, branch = every[which % len(every)]
        others = [e for e in self.active() if e is not engine]
        target = others[recipient % len(others)]
        for block in branch.scrubs:
            self.world.arena.scrub(block)
        branch.scrubs = []
        item = h.Offer(number, target.id, lives)
        if lives % 2:  # alone, or in a step
            offered: h.Offered = engine.ok("offer", item, h.Offered)
        else:
            (offered,) = engine.ok("step", m.Step(offers=(item,)), m.Stepped).offers
            assert offered.code == m.OK
        self.model.offered(engine.id, number, offered.offer, target.id, self.world.now + lives)

    @precondition(lambda self: self.model.offers)
    @rule(which=PICK, again=st.booleans())
    def adopt(self, which: int, again: bool) -> None:
        """The target takes it; a second time there is no offer."""
        self.do_adopt(which, again)

    def do_adopt(self, which: int, again: bool) -> None:
        name = list(self.model.offers)[which % len(self.model.offers)]
        source_id, old, target_id, _ = self.model.offers[name]
        source, target = (next(e for e in self.active() if e.id == i) for i in (source_id, target_id))
        number = self.number()
        if which % 2:
            adopted: h.Adopted = target.ok("adopt", h.Adopt(name, number), h.Adopted)
        else:
            (adopted,) = target.ok("step", m.Step(adopts=(h.Adopt(name, number),)), m.Stepped).adopts
            assert adopted.code == m.OK
        row = self.model.adopted(name, number)
        table = list(unpack_u32(adopted.blocks))
        assert (table, adopted.fill, adopted.capacity, adopted.sealed, adopted.behind) == (
            row.table, row.fill, row.writable, len(row.names), row.behind
        )  # fmt: skip
        branch = source.branches.pop(old)
        branch.last_step = -1
        branch.written = branch.launched = row.fill
        # New tokens may follow what is written, but a publication's own are given: the sequence promised them.
        assert adopted.publication == (row.publication.id if row.publication else "")
        given = min(len(branch.chain), len(row.publication.tokens)) if row.publication else 0
        branch.chain = branch.chain.fork(max(row.fill, given))
        target.branches[number] = branch
        if again:
            assert target.request("adopt", h.Adopt(name, self.number())).code == "NOT_FOUND"
            (gone,) = target.ok("step", m.Step(adopts=(h.Adopt(name, self.number()),)), m.Stepped).adopts
            assert gone.code == m.NO_SUCH

    @precondition(lambda self: self.model.offers)
    @rule(which=PICK)
    def frozen(self, which: int) -> None:
        """Nothing changes an offered sequence."""
        name = list(self.model.offers)[which % len(self.model.offers)]
        source_id, number, _, _ = self.model.offers[name]
        source = next(e for e in self.active() if e.id == source_id)
        row = self.model.holders[source_id].rows[number]
        step = m.Step(fills=pack_u32((number, row.fill)), extends=pack_u32((number, row.writable + 1)))
        reply: m.Stepped = source.ok("step", step, m.Stepped)
        assert (reply.fills[0], reply.extends[0]) == (m.CONFLICT, m.CONFLICT)
