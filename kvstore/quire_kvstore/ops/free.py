"""Free: references come back; many in slices (``slices``), each sequence at once. And what a session's end does.

A table is released from its tail to its head, so that a child is cached before its parent and can be evicted
first. Pinned canonical blocks take their place in that order, because they are the chain; duplicates and copy
sources hang below it and go first.

A *fence* takes nothing back: the process may still run and touch its blocks. It moves all references of the session
into quarantine. A *reclaim* (the process is dead, or said goodbye) gives every reference back, exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import FENCED, Session
from quire_kvstore.state import NO_APPENDER, State
from quire_proto.messages import NO_SUCH, OK, Free, Freed
from quire_proto.wire.u32 import unpack_u32

from .admission import trim_all
from .handoff import cancel
from .left_behind import given_back_above
from .slices import Pace, Slices, Work


def release(state: State, session: Session, number: int) -> int:
    """Give up one sequence, its claim, or its wait for another's; returns an item code."""
    sequence = session.sequences.pop(number, None)
    claimed = state.claims.leave((session.id, number))
    if sequence is None:
        return OK if claimed else NO_SUCH
    if sequence.offer:
        del state.offers[sequence.offer]
    for copy_id in sequence.copies:
        del session.copies[copy_id]
    _give_back(state, sequence, quarantined=False)
    return OK


def free(state: State, session: Session, item: Free) -> Slices[Freed]:
    """Give up sequences; one code each."""
    return Freed((yield from release_rows(state, session, unpack_u32(item.sequences), Pace(state))))


def release_rows(state: State, session: Session, numbers: Iterable[int], pace: Pace) -> Slices[bytes]:
    """Give up sequences, their claims, or their waits for others'; one item code each."""
    codes = bytearray()
    for number in numbers:
        yield from pace.rest()
        sequence = session.sequences.get(number)
        pace.spend(0 if sequence is None else sequence.behind + sequence.references(), Work.RELEASE)
        codes.append(release(state, session, number))
    return bytes(codes)


def fence(state: State, session: Session, now_ms: int) -> None:
    """Move everything a session holds into quarantine; a second fence changes nothing."""
    if session.state == FENCED:
        return
    cancel(state, session)
    session.state, session.fenced_at = FENCED, now_ms
    state.counters.fenced += 1
    state.claims.leave_session(session.id)
    for sequence in session.sequences.values():
        state.pool.quarantine(sequence.copy_ids())
        state.pool.quarantine(sequence.pin_ids())
        state.pool.quarantine(sequence.held)


def reclaim(state: State, session: Session) -> int:
    """Give back everything a session holds and forget it; returns the number of references."""
    cancel(state, session)
    references = session.references()
    state.claims.leave_session(session.id)
    for sequence in session.sequences.values():
        _give_back(state, sequence, quarantined=session.state == FENCED)
    session.sequences.clear()
    session.copies.clear()
    state.sessions.remove(session)
    trim_all(state)
    state.counters.reclaimed_sessions += 1
    state.counters.reclaimed_references += references
    return references


def _give_back(state: State, sequence: Sequence, quarantined: bool) -> None:
    state.accounts[sequence.account].sequences -= 1
    own = sequence.held[state.appender[sequence.held] == sequence.uid]
    state.appender[own] = NO_APPENDER
    state.pool.release(sequence.copy_ids(), quarantined)
    above = given_back_above(state, sequence)
    chain = sequence.table.copy()
    if sequence.pins:
        duplicates = np.array(list(sequence.pins), np.int64)
        state.pool.release(chain[duplicates], quarantined)
        chain[duplicates] = list(sequence.pins.values())
    chain = chain[sequence.behind :][::-1]
    named = chain[state.pool.sealed[chain]]
    state.pool.policy.served(np.concatenate((named, above)), max(sequence.fill - sequence.prompt, 0))
    state.pool.release(chain, quarantined)
    state.pool.policy.touched(above)
