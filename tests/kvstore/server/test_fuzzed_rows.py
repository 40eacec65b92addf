"""Damaged rows of ``step``: flat numbers in which a row has no bounds of its own but its place."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from quire_kvstore.sharing.change_log import Journal
from quire_proto import messages as m
from quire_proto.wire.codec import from_map
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32
from tests.kvstore.server.test_fuzzed_frames import snapshot
from tests.support.service import LAYOUT, BareService

FRAMES = 2_400
SEQUENCES = 6
SIZE = LAYOUT.block_size
ODD = (0, 1, 2, 3, SIZE, 40, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


class Rows:
    """Steps that the live state of a session permits, and the same with some numbers changed."""

    def __init__(self, wire: BareService, seed: int) -> None:
        self._wire, self._random = wire, random.Random(seed)
        self._digests = [self._random.randbytes(32) for _ in range(40)]  # few: some name a block already

    def step(self) -> dict[str, Any]:
        """A body: a completed block of some sequences, and capacity for some."""
        session = self._wire.store.state.sessions.get(self._wire.session)
        assert session is not None
        completed: list[int] = []
        extends: list[int] = []
        for number, sequence in session.sequences.items():
            if self._random.random() < 0.6:
                completed += (number, sequence.sealed, (sequence.sealed + 1) * SIZE)
            if self._random.random() < 0.4:
                extends += (number, (len(sequence.table) + 1) * SIZE)
        digests = b"".join(self._digest() for _ in range(len(completed) // 3))
        body = {"completed": pack_u32(completed), "completed_digests": digests, "extends": pack_u32(extends)}
        if self._random.random() < 0.6:
            body = {name: self._damaged(data) for name, data in body.items()}
        return body

    def _digest(self) -> bytes:
        return self._random.choice(self._digests) if self._random.random() < 0.2 else self._random.randbytes(32)

    def _damaged(self, data: bytes) -> bytes:
        kind = self._random.randrange(6)
        numbers = list(unpack_u32(data))
        if not numbers or kind == 0:
            return data
        at = self._random.randrange(len(numbers))
        if kind == 1:
            return data[: self._random.randrange(len(data))]
        if kind == 2:
            numbers[at] = self._random.choice(ODD)
        elif kind == 3:
            numbers[at] = (numbers[at] + self._random.randint(-3, 3)) % 2**32
        elif kind == 4:
            numbers += numbers[-3:]  # a row twice
        else:
            self._random.shuffle(numbers)
        return pack_u32(numbers)


def fill(wire: BareService) -> None:
    """Begin anew: no sequence but ``SEQUENCES`` new ones, the last of which shares all its blocks."""
    session = wire.store.state.sessions.get(wire.session)
    assert session is not None
    for numbers in (pack_u32(session.sequences), b""):
        assert wire.ask("free", session.window.next_number, m.Free(numbers)).code == ""
    for number in range(SEQUENCES - 1):
        assert wire.ask("allocate", session.window.next_number, m.Allocate(number, "t", 9)).code == ""
    fills = m.Step(fills=pack_u32([0, 9]))
    assert wire.ask("step", session.window.next_number, fills).code == ""
    forked = m.Fork(0, pack_u32([SEQUENCES - 1]), 9)
    assert wire.ask("fork", session.window.next_number, forked).code == ""


def test_damaged_rows_get_a_code_each_and_change_nothing_else() -> None:
    """Every row of an accepted step has its code, a refused step changes nothing, and the store stays consistent."""
    wire = BareService(blocks=96)
    wire.store.state.index.journal = Journal()
    wire.open()
    rows, codes, refused = Rows(wire, seed=20_26), Counter[int](), Counter[str]()
    for count in range(FRAMES):
        if count % 60 == 0:
            fill(wire)
        body, before = rows.step(), snapshot(wire)
        session = wire.store.state.sessions.get(wire.session)
        assert session is not None
        reply = wire.ask("step", session.window.next_number, body)
        refused[reply.code] += 1
        if reply.code:
            assert snapshot(wire) == before, f"{reply.code} changed the store: {body}"
        else:
            stepped = from_map(m.Stepped, reply.body)
            assert len(stepped.completed) == len(unpack_rows(body["completed"], 3))
            assert len(stepped.extends) == len(unpack_rows(body["extends"], 2))
            codes.update(stepped.completed)
        wire.store.check_invariants()
    assert wire.store.counters.internal_errors == 0
    assert set(refused) == {"", "BAD_FIELD", "TOO_LARGE"}
    assert min(codes[m.OK], codes[m.NO_SUCH], codes[m.CONFLICT]) > FRAMES // 60, codes
