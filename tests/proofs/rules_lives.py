"""Whole lives in one rule: what single rules reach only by luck, an engine does with every request.

A machine that draws each step by itself spends most of them on sequences that were never written. These rules play
short scripts from the same parts, so that sealed, shared, evicted, forked and adopted blocks are common.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.proofs.engine import Branch, Engine
from tests.proofs.rules_sequences import BEGINNINGS, PICK, SequenceRules
from tests.proofs.rules_wire import OfferRules


class LifeRules(SequenceRules, OfferRules):
    """Scripts of several operations."""

    def finish(self, engine: Engine, number: int, branch: Branch, token: int) -> None:
        """Write a branch to its capacity and acknowledge it."""
        if self.model.holders[engine.id].rows[number].offer:
            return
        if branch.writable > branch.launched:
            engine.launch(branch, branch.writable, token)
        while any(work.branch is branch for work in engine.work):
            self.complete_one(engine, True)

    @precondition(lambda self: self.active())
    @rule(peer=PICK, tenant=st.sampled_from("ab"), begin=BEGINNINGS, more=st.integers(0, 9), keep=st.booleans())
    def serve(self, peer: int, tenant: str, begin: list[int], more: int, keep: bool) -> None:
        """A request from its beginning to its last token; then it is kept, or given up."""
        engine = self.active()[peer % len(self.active())]
        self.do_allocate(engine, tenant, begin + [1] * more, 1, None)
        if self.next_number in engine.branches:
            number, branch = self.next_number, engine.branches[self.next_number]
            self.finish(engine, number, branch, 0)
            if not keep:
                self.give_up(engine, number)

    @precondition(lambda self: self.branches())
    @rule(which=PICK, back=st.integers(0, 1), token=st.integers(0, 1))
    def branch_off(self, which: int, back: int, token: int) -> None:
        """A parallel sample: forked near the end, extended, written while its parent goes on too."""
        engine, number, branch = self.pick(which)
        if len(engine.branches) > 6 or branch.fill <= back:
            return
        self.do_fork(engine, number, branch, branch.fill - back)
        if self.next_number not in engine.branches:
            return
        child, made = self.next_number, engine.branches[self.next_number]
        for one, grown in ((child, made), (number, branch)):
            self.do_extend(engine, one, grown, grown.fill + 2)
            self.finish(engine, one, grown, token)

    @precondition(lambda self: self.quiesced() and len(self.active()) > 1)
    @rule(which=PICK, recipient=PICK, again=st.booleans())
    def hand_over(self, which: int, recipient: int, again: bool) -> None:
        """An offer that is adopted at once; the new owner writes on."""
        self.do_offer(which, recipient, 50)
        self.do_adopt(len(self.model.offers) - 1, again)

    @precondition(lambda self: len(self.active()) > 1 and self.branches())
    @rule(which=PICK, token=st.integers(0, 1))
    def give_up_while_it_works(self, which: int, token: int) -> None:
        """A request is dropped with its step under way, and another engine asks for blocks at once."""
        engine, number, branch = self.pick(which)
        if branch.writable > branch.launched and not self.model.holders[engine.id].rows[number].offer:
            engine.launch(branch, branch.writable, token)
        self.give_up(engine, number)
        other = next(e for e in self.active() if e is not engine)
        self.do_allocate(other, "b", [token] * 12, 0, None)
        if self.next_number in other.branches:
            self.finish(other, self.next_number, other.branches[self.next_number], token)
        while engine.work:
            self.complete_one(engine, False)
