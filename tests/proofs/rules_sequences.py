"""Rules of sequences: allocate, extend, work, fill, seal, swap, fork, free, and requests that contradict the state."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32, unpack_rows
from tests.proofs.engine import Branch, Engine
from tests.proofs.model_moves import GONE, FullModel
from tests.proofs.world import SIZE, World

# Few prompts with common beginnings, so that hits, duplicates and evictions are frequent.
BEGINNINGS = st.sampled_from([[0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
PICK = st.integers(0, 1 << 16)


class SequenceRules:
    """What engines do with their sequences. ``self.pick`` gives an engine and one of its branches."""

    world: World
    model: FullModel
    next_number: int
    engines: list[Engine]

    def active(self) -> list[Engine]:
        """Engines whose session can act."""
        return [e for e in self.engines if e.id in self.model.holders and not self.model.holders[e.id].fenced]

    def branches(self) -> list[tuple[Engine, int, Branch]]:
        """Branches that an engine still works on."""
        return [(e, number, b) for e in self.active() for number, b in e.branches.items()]

    def pick(self, choice: int) -> tuple[Engine, int, Branch]:
        """One of them."""
        every = self.branches()
        return every[choice % len(every)]

    def number(self) -> int:
        """A sequence number that was never used."""
        self.next_number += 1
        return self.next_number

    def orders(self) -> tuple[list[int], list[int], list[int]]:
        """What a refusal leaves alone beside all that the model compares: which blocks go next, and their appenders."""
        state = self.world.store.state
        return state.pool.free_ids().tolist(), state.pool.cached_ids(), state.appender.tolist()

    @precondition(lambda self: self.active())
    @rule(peer=PICK, tenant=st.sampled_from("ab"), begin=BEGINNINGS, more=st.integers(0, 5), ahead=st.integers(0, 4))
    def allocate(self, peer: int, tenant: str, begin: list[int], more: int, ahead: int) -> None:
        self.do_allocate(self.active()[peer % len(self.active())], tenant, begin + [1] * more, ahead, None)

    def do_allocate(
        self, engine: Engine, tenant: str, tokens: list[int], ahead: int, known: m.Publication | None, last: int = 0
    ) -> None:
        """``known``: the publication named, as its engine knows it; ``last``: the list it was looked for in."""
        number, chain = self.number(), engine.chain(tenant, tokens)
        name, generation = (known.id, known.generation) if known else ("", 0)
        item = m.Allocate(
            number, tenant, len(tokens), chain.digests(), name, generation, len(tokens) + ahead, list_generation=last
        )
        before = self.orders()
        reply: m.Allocated = engine.ok("allocate", item, m.Allocated)
        self.model.allocated(engine.id, item, reply, self.world.store)
        assert reply.code == m.OK or self.orders() == before
        if reply.code == m.OK:
            engine.allocated(number, item, chain, reply, known.domain if known else "")

    @precondition(lambda self: self.branches())
    @rule(which=PICK, count=st.integers(0, 5))
    def extend(self, which: int, count: int) -> None:
        engine, number, branch = self.pick(which)
        self.do_extend(engine, number, branch, branch.fill + count)

    def do_extend(self, engine: Engine, number: int, branch: Branch, tokens: int) -> None:
        item = m.Extend(number, tokens)
        before = self.orders()
        reply: m.Extended = engine.ok("extend", item, m.Extended)
        self.model.extended(engine.id, item, reply, self.world.store)
        assert reply.code == m.OK or self.orders() == before
        if reply.code == m.OK:
            branch.extended(reply)

    @precondition(lambda self: self.branches())
    @rule(which=PICK, count=st.integers(1, 6), token=st.integers(0, 1))
    def launch(self, which: int, count: int, token: int) -> None:
        engine, number, branch = self.pick(which)
        if self.model.holders[engine.id].rows[number].offer:
            return  # frozen: its engine lets it rest
        upto = min(branch.launched + count, branch.writable)
        if upto > branch.launched:
            engine.launch(branch, upto, token)

    @precondition(lambda self: any(engine.work for engine in self.active()))
    @rule(peer=PICK, seal=st.booleans())
    def complete(self, peer: int, seal: bool) -> None:
        busy = [engine for engine in self.active() if engine.work]
        self.complete_one(busy[peer % len(busy)], seal)

    def complete_one(self, engine: Engine, seal: bool) -> None:
        """The oldest step completes; what it allows to be said is said."""
        work = engine.complete()
        assert work is not None
        for copy_id, *_ in work.copies:
            engine.retire.copy_done(work.step, copy_id)
        self.acknowledge(engine)
        numbers = [number for number, branch in engine.branches.items() if branch is work.branch]
        for number in numbers:  # none if it was freed meanwhile
            self.fill(engine, number, work.branch)
            if seal:
                self.do_seal(engine, number, work.branch, swap=True)

    def acknowledge(self, engine: Engine) -> None:
        """What the retire list says is due: copies done and releases."""
        copies, releases = engine.retire.drain_copies(), engine.retire.drain_releases()
        live = [copy for copy in copies if any(copy in r.copies for r in self.model.holders[engine.id].rows.values())]
        reply: m.Stepped = engine.ok("step", m.Step(pack_u32(releases), pack_u32(live)), m.Stepped)
        assert list(reply.releases) == [self.model.free(engine.id, number) for number in releases]
        for code, copy in zip(reply.copies_done, live, strict=True):
            freed = code == m.NO_SUCH  # with its sequence, a moment before in the same step
            assert freed or code == self.model.copied(engine.id, copy) == m.OK

    def fill(self, engine: Engine, number: int, branch: Branch) -> None:
        """Acknowledge what is written."""
        reply: m.Stepped = engine.ok("step", m.Step(fills=pack_u32((number, branch.written))), m.Stepped)
        assert reply.fills[0] == self.model.fill(engine.id, number, branch.written)
        if reply.fills[0] == m.OK:
            branch.fill = branch.written

    @precondition(lambda self: self.branches())
    @rule(which=PICK, swap=st.booleans())
    def seal(self, which: int, swap: bool) -> None:
        self.do_seal(*self.pick(which), swap)

    def do_seal(self, engine: Engine, number: int, branch: Branch, swap: bool) -> None:
        first = len(self.model.holders[engine.id].rows[number].names)
        end = branch.fill // SIZE
        if end <= first:
            return
        item = m.Seal(number, first, branch.chain.digests(first, end))
        if end == first + 1 and number % 2:  # as a batch that decodes says it
            rows = m.Step(completed=pack_u32((number, first, branch.fill)), completed_digests=item.digests)
            said: m.Stepped = engine.ok("step", rows, m.Stepped)
            answer = said.completed[0], [row[1:] for row in unpack_rows(said.canonical, 3)]
        else:
            reply: m.Sealed = engine.ok("seal", item, m.Sealed)
            answer = reply.code, unpack_rows(reply.canonical, 2)
        code, canonical = self.model.seal(engine.id, item)
        assert answer == (code, canonical)
        self.model.trimmed(self.world.store)
        # At a step boundary only: while work is under way it names the old block.
        for index, block in canonical if swap and not any(w.branch is branch for w in engine.work) else []:
            swapped: m.Stepped = engine.ok("step", m.Step(swaps=pack_u32((number, index, block))), m.Stepped)
            assert swapped.swaps[0] == self.model.swap(engine.id, number, index, block) == m.OK
            branch.table[index] = block

    @precondition(lambda self: self.branches())
    @rule(which=PICK, at=PICK)
    def fork(self, which: int, at: int) -> None:
        engine, parent, branch = self.pick(which)
        if len(engine.branches) <= 6:
            self.do_fork(engine, parent, branch, at % (branch.fill + 1))

    def do_fork(self, engine: Engine, parent: int, branch: Branch, at: int) -> None:
        child = self.number()
        reply: m.Forked = engine.ok("fork", m.Fork(parent, pack_u32([child]), at), m.Forked)
        assert reply.code == self.model.fork(engine.id, parent, child, at)
        if reply.code == m.OK:
            self.do_copies(engine, branch)
            made = Branch(branch.tenant, branch.chain.fork(at), branch.table[: -(-at // SIZE)], at, at, branch.domain)
            made.written = made.launched = at
            made.last_step, made.behind = branch.last_step, branch.behind
            engine.branches[child] = made

    def do_copies(self, engine: Engine, branch: Branch) -> None:
        """Copies owed by a branch run before anything that reads their target: in stream order, all that is queued."""
        queued = [w for w in engine.work if w.branch is branch]
        for block in [block for w in queued for block in w.scrubs] + branch.scrubs:
            self.world.arena.scrub(block)
        for _, src, dst, count in [copy for w in queued for copy in w.copies]:
            self.world.arena.copy(src, dst, count)
        for copy_id, src, dst, count in branch.copies:
            self.world.arena.copy(src, dst, count)
            engine.retire.copy_done(engine.step, copy_id)
        branch.copies, branch.scrubs = [], []

    @precondition(lambda self: self.branches())
    @rule(which=PICK, blocks=PICK)
    def leave_behind(self, which: int, blocks: int) -> None:
        """No layer reads the first blocks any more: windows have moved on, in work that is under way too."""
        engine, number, branch = self.pick(which)
        full = branch.fill // SIZE
        if full > branch.behind:
            self.do_leave(engine, number, branch, branch.behind + 1 + blocks % (full - branch.behind))

    def do_leave(self, engine: Engine, number: int, branch: Branch, blocks: int) -> None:
        reply: m.Stepped = engine.ok("step", m.Step(left_behind=pack_u32((number, blocks))), m.Stepped)
        assert reply.left_behind[0] == self.model.leave(engine.id, number, blocks)
        if reply.left_behind[0] == m.OK:
            branch.behind = blocks
            branch.table[:blocks] = [GONE] * blocks

    @precondition(lambda self: self.branches())
    @rule(which=PICK)
    def free(self, which: int) -> None:
        """Give a sequence up; the release waits for the last step that names its blocks."""
        engine, number, _ = self.pick(which)
        self.give_up(engine, number)

    def give_up(self, engine: Engine, number: int) -> None:
        engine.retire.release(engine.branches.pop(number).last_step, number)
        self.acknowledge(engine)

    @precondition(lambda self: self.branches())
    @rule(which=PICK, at=PICK)
    def misuse(self, which: int, at: int) -> None:
        """Requests that contradict the state are refused and change nothing."""
        engine, number, branch = self.pick(which)
        before = self.orders()
        past: list[tuple[str, Any, type, tuple[int, ...]]] = [
            ("fork", m.Fork(number, pack_u32([1 << 31]), branch.fill + 1 + at), m.Forked, (m.CONFLICT,)),
            ("allocate", m.Allocate(number, "a", 1), m.Allocated, (m.CONFLICT,)),
            ("seal", m.Seal(number, len(branch.table), bytes(32)), m.Sealed, (m.CONFLICT,)),
            ("seal", m.Seal(number, branch.fill // SIZE, bytes(range(32))), m.Sealed, (m.CONFLICT, m.UNPUBLISHED)),
        ]
        for op, body, reply, codes in past:
            assert engine.ok(op, body, reply).code in codes
        for blocks in {branch.fill // SIZE + 1 + at, max(0, branch.behind - 1)} - {branch.behind}:
            less = engine.ok("step", m.Step(left_behind=pack_u32((number, blocks))), m.Stepped)
            assert list(less.left_behind) == [m.CONFLICT]
        bad = engine.ok("step", m.Step(fills=pack_u32((number, branch.writable + 1))), m.Stepped)
        assert list(bad.fills) == [m.CONFLICT]
        assert self.orders() == before
