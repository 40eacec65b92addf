"""Left behind: blocks that no layer of a model reads any more for a sequence go back while it lives on.

A layer with a sliding window never reads further back than its window. Where all layers have one, the session says how
many leading blocks the widest has left behind, and the sequence gives up its references on them: its table has a hole
at its beginning from then on. What nothing else holds and has no name is free at once; what has a name is *cached*,
although the blocks below it are held.

An index entry never stands without its parent, so when such a block is evicted all names below it go, those of the
live sequence's held blocks too: they stay its blocks, nobody can hit them, and nothing further of that sequence can be
sealed (``UNPUBLISHED``). Therefore these blocks stay behind all that hangs below them in the order of eviction: when
blocks below them are cached, the whole chain above is as if just used (``touched``). That costs time for all of the
chain, so it is done as the sequence ends, and before that only when its hole has grown by a quarter. In between, what
was given back last may stand behind its parents in that order, and then goes with them.

Refused (``CONFLICT``): what is not written, or not given back for the first time (a smaller number); blocks that a copy
is still made to; a sequence that is offered, or whose publication is not computed yet, as its table will be that of the
publication.
"""

from __future__ import annotations

import numpy as np

from quire_kvstore.blocks.ids import NO_BLOCKS, Ids
from quire_kvstore.sessions.sequence import GIVEN_BACK, Sequence
from quire_kvstore.sessions.session import Session
from quire_kvstore.state import NO_APPENDER, State
from quire_proto.messages import CONFLICT, NO_SUCH, OK
from quire_proto.wire.u32 import unpack_rows

from .slices import Pace, Slices, Work

GROWTH = 1.25  # of a hole, from one time that the chain above is touched to the next


def leave_rows(state: State, session: Session, rows: bytes, pace: Pace) -> Slices[bytes]:
    """Give up the leading blocks that each row (sequence, blocks) names; one item code each."""
    codes = bytearray()
    for number, blocks in unpack_rows(rows, 2):
        yield from pace.rest()
        sequence = session.sequences.get(number)
        pace.spend(0 if sequence is None else blocks, Work.RELEASE)
        codes.append(NO_SUCH if sequence is None else _leave(state, sequence, blocks))
    return bytes(codes)


def given_back_above(state: State, sequence: Sequence) -> Ids:
    """Cached blocks of the chain above what a sequence with a hole holds, lowest first."""
    if not sequence.behind:
        return NO_BLOCKS
    held = (state.index.of_block(sequence.canonical(i)) for i in range(sequence.sealed - 1, sequence.behind - 1, -1))
    entry = next((one for one in held if one is not None), None)
    find, seen = state.index.find, dict[int, None]()  # made-up digests may form a ring
    while entry is not None and entry.block not in seen:
        seen[entry.block] = None
        entry = find(entry.parent) if entry.anchor is None else None
    chain: Ids = np.fromiter(seen, np.int64, len(seen))
    cached: Ids = chain[state.pool.refs[chain] == 0]
    return cached


def _leave(state: State, sequence: Sequence, blocks: int) -> int:
    if sequence.offer or not sequence.behind <= blocks <= sequence.fill // state.block_size:
        return CONFLICT
    if _publishes(state, sequence):
        return CONFLICT
    leaving = sequence.table[sequence.behind : blocks].copy()
    if any(copy.dst in leaving for copy in sequence.copies.values()):
        return CONFLICT
    if not len(leaving):
        return OK
    pinned = sorted(index for index in sequence.pins if index < blocks)
    duplicates = sequence.table[pinned]
    state.appender[leaving[state.appender[leaving] == sequence.uid]] = NO_APPENDER
    leaving[np.array(pinned, np.int64) - sequence.behind] = [sequence.pins.pop(index) for index in pinned]
    # Its table may be the array that another reads or grows into: it gets one of its own.
    sequence.table = sequence.table.copy()
    sequence.table[:blocks] = GIVEN_BACK
    sequence.behind = blocks
    state.counters.left_behind += len(leaving)
    state.pool.policy.served(NO_BLOCKS, max(sequence.fill - sequence.prompt, 0))
    state.pool.release(duplicates)
    state.pool.release(leaving[::-1])
    if blocks >= GROWTH * sequence.touched:
        sequence.touched = blocks
        state.pool.policy.touched(given_back_above(state, sequence))
    return OK


def _publishes(state: State, sequence: Sequence) -> bool:
    """Whether the first to compute the publication that its tokens begin with may be this sequence."""
    published = state.publications.get(sequence.publication) if sequence.publication else None
    return published is not None and published.edition == sequence.publication_edition and published.table is None
