"""Staging: an allocate that must evict much is prepared in slices, so that nobody waits longer than for one of them.

Evicting costs some microseconds a block: a prompt of 100,000 tokens in a full pool would hold up everybody for tens of
milliseconds. So before such a request is executed it makes room for itself, ``SLICE`` blocks at a time, and each time
goes back to the head of its connection's queue, from where it is asked again after the others had their turn. Nothing
of it is done by then but evictions that it needs anyway; it is executed, and its number consumed, once the rest is
small.

What it will hit is marked as used first, or making room could evict just that.
"""

from __future__ import annotations

from quire_proto.digests import split
from quire_proto.messages import OK, Allocate

from . import growing
from .room import make_room, shortage
from .sessions import Session
from .state import State

SLICE = 128


class NotYet(Exception):
    """The request is not ready to be executed: ask again, after others."""


def prepare(state: State, session: Session, item: Allocate, most_at_once: int = SLICE) -> bool:
    """Whether an allocate may be executed now; if not, room for ``most_at_once`` more blocks has been made."""
    most = state.blocks_for(max(item.tokens, item.reserve))
    if most - state.pool.free <= most_at_once:
        return True
    record = state.publications.get(item.publication) if item.publication else None
    if growing.refusal(state, session, item, record) != OK or (record is not None and record.table is None):
        return True
    digests = split(item.digests)
    match = growing.matched(state, item, record, digests)
    lacking = digests[len(match.blocks) :]
    if item.may_wait and lacking and state.claims.of_others(lacking[0], (session.id, item.sequence)) is not None:
        return True  # it will be told to wait
    own, account = most - match.computed // state.block_size, growing.account_of(state, item, record)
    if own - state.pool.free <= most_at_once or shortage(state, account, own, match.blocks) is not None:
        return True
    state.pool.retain(match.blocks)
    make_room(state, account, state.pool.free + most_at_once)
    state.pool.release(match.blocks[::-1])
    return False
