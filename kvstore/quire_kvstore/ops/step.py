"""Step: the compound op of the hot path.

Its sections are applied in the order of its fields; each item is atomic and has one result. What an earlier section
frees, a later one can use. A long step is done in slices (``slices``): others may have a turn between two items, and
in an allocate that evicts much.
"""

from __future__ import annotations

from itertools import chain as concat

from quire_kvstore.sessions.session import Session
from quire_kvstore.state import State
from quire_proto.messages import Step, Stepped
from quire_proto.wire.digests import DIGEST_BYTES
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32

from .allocate import allocate
from .copies import copy_done, swap
from .extend import extend_rows
from .fill import fill
from .fork import fork
from .free import release_rows
from .handoff import Names, adopt_each, offer_each
from .left_behind import leave_rows
from .seal import complete_rows, seal
from .slices import Pace, Slices, Work


def step(state: State, session: Session, item: Step, name: Names = bytes, now_ms: int = 0) -> Slices[Stepped]:
    """Apply all sections. ``name``: makes names of offers."""
    pace = Pace(state)
    state.counters.steps += 1
    releases = yield from release_rows(state, session, unpack_u32(item.releases), pace)
    copies_done = bytes([copy_done(state, session, copy_id) for copy_id in unpack_u32(item.copies_done)])
    swaps = bytes([swap(state, session, *_three(row)) for row in unpack_rows(item.swaps, 3)])
    fills = bytes([fill(state, session, row[0], row[1]) for row in unpack_rows(item.fills, 2)])
    seals = []
    for one in item.seals:
        yield from pace.rest()
        seals.append(seal(state, session, one))
        pace.spend(len(one.digests) // DIGEST_BYTES, Work.SEAL)
    completed, canonical = complete_rows(state, session, item.completed, item.completed_digests)
    left_behind = yield from leave_rows(state, session, item.left_behind, pace)
    forks = tuple([fork(state, session, one) for one in item.forks])
    extended = extend_rows(state, session, item.extends)
    allocates = []
    for wanted in item.allocates:
        yield from pace.rest()
        allocates.append((yield from allocate(state, session, wanted, pace)))
    return Stepped(
        releases=releases,
        copies_done=copies_done,
        swaps=swaps,
        fills=fills,
        seals=tuple(seals),
        completed=completed,
        canonical=canonical,
        left_behind=left_behind,
        forks=forks,
        extends=bytes(extended.codes),
        blocks=pack_u32(extended.blocks),
        copies=extended.copies,
        scrub=extended.scrub,
        shortages=tuple(extended.shortages),
        allocates=tuple(allocates),
        priorities=pack_u32(concat.from_iterable(state.claims.drain_urgent(session.id))),
        offers=offer_each(state, session, item.offers, name, now_ms),
        adopts=adopt_each(state, session, item.adopts),
        publications_generation=state.publications.generation,
    )


def _three(row: tuple[int, ...]) -> tuple[int, int, int]:
    return row[0], row[1], row[2]
