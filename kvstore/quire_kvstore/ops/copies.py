"""Copies, and swaps: blocks in a table that others take the place of.

An unfull block that a sequence may not write in place is replaced by a new one, and a copy is asked for.

The source stays pinned until the session acknowledges the copy (or frees the sequence), because the copy runs on the
engine's stream, after this reply.
"""

from __future__ import annotations

import numpy as np

from quire_kvstore.sessions.sequence import Copy, Sequence
from quire_kvstore.sessions.session import Session
from quire_kvstore.state import NO_APPENDER, State
from quire_proto.messages import CONFLICT, NO_SUCH, OK
from quire_proto.wire.u32 import U32_MAX, pack_u32


def ask_copy(state: State, session: Session, number: int, sequence: Sequence, src: int, dst: int, slots: int) -> bytes:
    """A row that asks for a copy; the reference that the table had on ``src`` becomes the copy's pin."""
    copy_id = session.next_copy
    while copy_id in session.copies:
        copy_id = copy_id % U32_MAX + 1
    session.next_copy = copy_id % U32_MAX + 1
    session.copies[copy_id] = number
    sequence.copies[copy_id] = Copy(src, dst, slots)
    state.counters.copies += 1
    return pack_u32((copy_id, src, dst, slots))


def copy_done(state: State, session: Session, copy_id: int) -> int:
    """Unpin the source of a completed copy; returns an item code."""
    number = session.copies.pop(copy_id, None)
    if number is None:
        return NO_SUCH
    copy = session.sequences[number].copies.pop(copy_id)
    state.pool.release(np.array([copy.src], np.int64))
    return OK


def swap(state: State, session: Session, number: int, index: int, block: int) -> int:
    """Put the canonical block into the table, or keep the present one (``block`` equals it); an item code.

    Declined or not, the chain stays held: a pin that is not swapped in stays until the sequence is freed.
    """
    sequence = session.sequences.get(number)
    if sequence is None:
        return NO_SUCH
    if sequence.offer or not sequence.behind <= index < len(sequence.table):
        return CONFLICT
    present = int(sequence.table[index])
    if block == present:
        return OK
    if sequence.pins.get(index) != block:
        return CONFLICT
    del sequence.pins[index]  # the pin's reference becomes the table's
    sequence.table[index] = block
    if int(state.appender[present]) == sequence.uid:
        state.appender[present] = NO_APPENDER
    state.pool.release(np.array([present], np.int64))
    return OK
