"""Step: the compound op of the hot path. Its sections are applied in the order of its fields; each item is atomic
and has one result. What an earlier section frees, a later one can use.
"""

from __future__ import annotations

from itertools import chain as concat

from quire_proto.messages import Extend, Step, Stepped
from quire_proto.packed import pack, unpack, unpack_rows

from .claiming import allocate
from .forking import fork
from .growing import extend
from .releasing import release
from .sealing import copy_done, fill, seal, swap
from .sessions import Session
from .state import State


def step(state: State, session: Session, item: Step) -> Stepped:
    """Apply all sections."""
    state.counters.steps += 1
    return Stepped(
        releases=bytes([release(state, session, number) for number in unpack(item.releases)]),
        copies_done=bytes([copy_done(state, session, copy_id) for copy_id in unpack(item.copies_done)]),
        swaps=bytes([swap(state, session, *_three(row)) for row in unpack_rows(item.swaps, 3)]),
        fills=bytes([fill(state, session, row[0], row[1]) for row in unpack_rows(item.fills, 2)]),
        seals=tuple([seal(state, session, one) for one in item.seals]),
        forks=tuple([fork(state, session, one) for one in item.forks]),
        extends=tuple([extend(state, session, Extend(row[0], row[1])) for row in unpack_rows(item.extends, 2)]),
        allocates=tuple([allocate(state, session, one) for one in item.allocates]),
        priorities=pack(concat.from_iterable(state.claims.take_urgent(session.id))),
        publications_generation=state.publications.generation,
    )


def _three(row: tuple[int, ...]) -> tuple[int, int, int]:
    return row[0], row[1], row[2]
