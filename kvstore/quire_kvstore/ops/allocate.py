"""Allocate with claims, and wait: what a sequence lacks is computed once.

A sequence that gets its table claims every block it must compute, in the same step. One that may wait, and whose
first missing block another sequence is computing, gets nothing and is told so (``CLAIMED``): it waits, holding
nothing, and asks again. One that may not wait computes a second copy; its seals then name the canonical blocks.

Whatever an allocate answers but OK, a claim that had passed to this sequence goes on to the next waiter: an heir that
finds no space must not stop the others.

Digests are keyed by tenant, so a claim can only ever be met by those who may use its blocks. A pending publication is
one key of its own, met by all who may name it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from quire_kvstore.blocks.charges import NOBODY
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.claims import SEALED, YOURS, Claim, Holder, Ticket, publication_key
from quire_kvstore.sharing.publications import Record
from quire_kvstore.state import State
from quire_kvstore.tenants.quotas import UNLIMITED
from quire_proto.digests import split
from quire_proto.messages import CLAIMED, OK, Allocate, Allocated, Wait

from . import extend as growing
from .free import release
from .slices import LOOKED_UP, Pace, Slices, take_room


@dataclass(slots=True)
class _Lack:
    """What an allocate must compute: ``keys`` in order. ``named`` of them, a pending publication, are no digests.
    ``present`` blocks need not be computed, the last of them being ``hit``. ``digests``: of all its blocks."""

    digests: list[bytes]
    hit: list[int]
    keys: list[bytes]
    named: int
    present: int


def allocate(state: State, session: Session, item: Allocate, pace: Pace) -> Slices[Allocated]:
    """A table, or what another sequence is computing for this one, or no space; see ``growing``."""
    holder = (session.id, item.sequence)
    record = state.publications.get(item.publication) if item.publication else None
    lack = _lack(state, item, record)
    claim = state.claims.of_others(lack.keys[0], holder) if lack.keys else None
    if claim is not None and item.may_wait:
        code = growing.refusal(state, session, item, record)
        if code == OK:
            state.counters.claimed += 1
        begun: growing.Begun | Allocated = _claimed(state, lack, claim) if code == OK else Allocated(code)
    else:
        begun = growing.begin(state, session, item, record, lack.digests, lack.hit)
    if isinstance(begun, Allocated):
        if item.sequence not in session.sequences:
            state.claims.leave(holder)
        return begun
    pace.spend(len(lack.digests), LOOKED_UP)
    room, all_claimed, others = take_room(state, begun, pace), False, list[bytes]()
    try:
        waits = next(room)
    except StopIteration as end:
        short = end.value
    else:
        all_claimed = _claim(state, holder, lack, item.priority) is None  # before others have their turn
        yield waits
        short = yield from room
    if short is not None:
        release(state, session, item.sequence)
        return growing.no_space(state, Allocated, short)
    if not all_claimed:  # what making room has evicted is to be computed, too
        others = _claim(state, holder, lack, item.priority) or []
    reply = growing.complete(state, session, item, begun)
    return replace(reply, claimed=b"".join(others)) if others else reply


def wait(state: State, session: Session, item: Wait, ticket: Ticket, until_ms: int) -> str | None:
    """``sealed`` or ``yours`` if that can be said at once, else None: the answer will be in ``claims.answers``."""
    record = state.publications.get(item.publication) if item.publication else None
    if item.publication:
        if record is None or record.generation != item.publication_generation:
            return YOURS  # it is another prompt by now: the allocate will say so
        if record.table is not None:
            return SEALED
    elif state.index.find(item.digest) is not None:
        return SEALED
    key = item.digest if record is None else publication_key(record.id, record.made)
    if not state.claims.wait((session.id, item.sequence), key, ticket, item.priority, until_ms):
        return YOURS
    state.counters.waits += 1
    return None


def _lack(state: State, item: Allocate, record: Record | None) -> _Lack:
    digests, hit = split(item.digests), list[int]()
    start, keys = 0, []
    if record is not None:
        start = min(record.count // state.block_size, len(digests))
        keys = [publication_key(record.id, record.made)] if record.table is None else []
    # What was sealed behind a publication may be there without the blocks before it: what is lacked begins where the
    # hit ends, and not where a search for the first digest without a block happens to.
    if not keys and start < len(digests):
        hit = _chargeable(state, item.tenant, state.index.longest(digests, start, len(digests)))
    missing = start + len(hit)
    return _Lack(digests, hit, keys + digests[missing:], len(keys), missing)


def _chargeable(state: State, tenant: str, hit: list[int]) -> list[int]:
    """The leading blocks of a hit that do not wake another tenant's block from the quarantine, against its limit.

    A tenant's own digests lead to its own blocks, and its limit is judged with the rest. Made-up ones lead anywhere.
    """
    if not (state.quotas.active and state.books.quarantined and hit):
        return hit
    blocks, owners, account = np.array(hit, np.int64), state.books.owner[hit], state.accounts.find(tenant)
    refs = state.pool.refs[blocks]
    asleep = (refs > 0) & (refs == state.pool.quarantined_refs[blocks])
    limited = (owners != (NOBODY if account is None else account)) & (state.quotas.limit[owners] < UNLIMITED)
    barred = np.flatnonzero(asleep & limited)
    return hit[: int(barred[0])] if len(barred) else hit


def _claim(state: State, holder: Holder, lack: _Lack, priority: int) -> list[bytes] | None:
    """Claim what nobody else does; returns None for all of it, else the digests that others compute."""
    keys = lack.keys
    if state.claims.untouched(keys) and len(set(keys)) == len(keys) and state.index.lacks(keys):
        state.claims.take(holder, keys, priority)
        return None
    others = [key for key in keys[lack.named :] if state.claims.of_others(key, holder)]
    state.claims.take(holder, _unclaimed(state, keys, holder), priority)
    return others


def _claimed(state: State, lack: _Lack, claim: Claim) -> Allocated:
    """The run of this sequence's keys that ``claim`` holds."""
    run = takewhile(lambda key: state.claims.of_key(key) is claim, lack.keys)
    digests = [] if lack.named else list(run)
    present = 0 if lack.named else lack.present
    return Allocated(CLAIMED, computed=present * state.block_size, claimed=b"".join(digests))


def _unclaimed(state: State, keys: list[bytes], holder: Holder) -> list[bytes]:
    """The leading keys that this sequence will be the one to compute."""
    mine: dict[bytes, None] = {}
    for key in keys:
        if key in mine or state.claims.of_others(key, holder) or state.index.find(key) is not None:
            break
        mine[key] = None
    return list(mine)
