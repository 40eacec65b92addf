"""An engine that keeps every rule, among clients that keep none: it is never refused, held up, or handed wrong content.

It computes the prompts of one tenant in a stamped arena. What others do may
cost it space, a wait or a seal. It may never cost it an error reply, a wait beyond its deadline, or a slot that holds
anything else below its fill mark.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from quire_proto import messages as m
from quire_proto.wire.codec import from_map
from quire_proto.wire.envelope import Reply
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32
from tests.kvstore.hostile.bodies import INNOCENT, PROMPTS, SIZE, digests_of
from tests.support.stamped_arena import StampedArena

WAIT_MS = 200
PATIENCE = 4  # waits for one prompt before it is computed in any case


@dataclass
class Work:
    """One sequence: its tokens, its table, and what is done of it."""

    number: int
    tokens: list[int]
    waits: int = 0
    table: list[int] = field(default_factory=list)
    fill: int = 0
    sealed: int = 0
    copies: list[int] = field(default_factory=list)


class Innocent:
    """One request at a time: allocate, perhaps wait, compute, fork, extend the child, free both.

    Attributes:
        finished: prompts computed.
    """

    def __init__(self, chance: random.Random, blocks: int) -> None:
        self._random = chance
        self._arena = StampedArena.in_memory(blocks, SIZE)
        self._number = 0
        self._next: tuple[str, Any] | None = None
        self._live: list[Work] = []
        self.finished = 0

    def request(self) -> tuple[str, Any]:
        """What it asks next."""
        if self._next is None:
            self._number += 1
            tokens = self._random.choice(PROMPTS)[: self._random.randint(1, 7)]
            self._live = [Work(self._number, list(tokens))]
            self._next = "allocate", self._allocate()
        return self._next

    def answered(self, reply: Reply) -> None:
        """The reply to that; what follows from it is asked next."""
        assert self._next is not None
        op, self._next = self._next[0], None
        late = op == "wait" and reply.code == "DEADLINE"  # it was over before it was looked at
        assert late or reply.code == "", f"{op} of a client that keeps the rules: {reply}"
        getattr(self, f"_after_{op}")({"state": "deadline"} if late else reply.body)
        self.check()

    def check(self) -> None:
        """What is below its fill marks is its own."""
        for work in self._live:
            self._arena.read(work.table, work.tokens, work.fill)

    # --- one op after the other -----------------------------------------------------------------------------------

    def _allocate(self) -> m.Allocate:
        work = self._live[0]
        names = b"".join(digests_of(INNOCENT, work.tokens, len(work.tokens) // SIZE))
        return m.Allocate(work.number, INNOCENT, len(work.tokens), names, may_wait=int(work.waits < PATIENCE))

    def _after_allocate(self, body: dict[str, Any]) -> None:
        answer, work = from_map(m.Allocated, body), self._live[0]
        assert answer.code in (m.OK, m.NO_SPACE, m.CLAIMED), answer
        if answer.code == m.CLAIMED:
            work.waits += 1
            self._next = "wait", m.Wait(work.number, answer.claimed[-32:])
        elif answer.code == m.OK:
            work.table, work.fill = list(unpack_u32(answer.blocks)), answer.computed
            work.sealed = answer.computed // SIZE
            self._moved(work, answer)
            self._compute(work, len(work.tokens))
            names = digests_of(INNOCENT, work.tokens, len(work.tokens) // SIZE)[work.sealed :]
            seal = m.Seal(work.number, work.sealed, b"".join(names))
            done, work.copies = pack_u32(work.copies), []
            step = m.Step(copies_done=done, fills=pack_u32((work.number, work.fill)), seals=(seal,))
            self._next = "step", step

    def _after_wait(self, body: dict[str, Any]) -> None:
        assert body["state"] in ("sealed", "yours", "deadline")
        self._next = "allocate", self._allocate()

    def _after_step(self, body: dict[str, Any]) -> None:
        answer, work = from_map(m.Stepped, body), self._live[0]
        assert set(answer.fills + answer.copies_done) <= {m.OK}, "what it wrote"
        self.finished += 1
        child = Work(work.number + 1, work.tokens[: work.fill - self._random.randrange(2)])
        child.fill = len(child.tokens)
        child.table = work.table[: -(-child.fill // SIZE)]
        self._number += 1
        self._live.append(child)
        self._next = "fork", m.Fork(work.number, pack_u32([child.number]), child.fill)

    def _after_fork(self, body: dict[str, Any]) -> None:
        assert body["code"] == m.OK
        self._next = "extend", m.Extend(self._live[1].number, self._live[1].fill + 1)

    def _after_extend(self, body: dict[str, Any]) -> None:
        answer, child = from_map(m.Extended, body), self._live[1]
        assert answer.code in (m.OK, m.NO_SPACE)
        if answer.code == m.OK:
            child.table[answer.first :] = list(unpack_u32(answer.blocks))
            self._moved(child, answer)
            child.tokens.append(2)
            self._compute(child, child.fill + 1)
        self.check()
        self._next = "free", m.Free(pack_u32(work.number for work in self._live))
        self._live = []

    def _after_free(self, body: dict[str, Any]) -> None:
        assert set(body["codes"]) == {m.OK}

    def _moved(self, work: Work, answer: m.Allocated | m.Extended) -> None:
        for block in unpack_u32(answer.scrub):
            self._arena.scrub(block)
        for copy_id, src, dst, slots in unpack_rows(answer.copies, 4):
            self._arena.copy(src, dst, slots)
            work.copies.append(copy_id)

    def _compute(self, work: Work, upto: int) -> None:
        self._arena.write(work.table, work.tokens, work.fill, upto)
        work.fill = upto
