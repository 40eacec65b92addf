"""Fork: children that share a parent's first tokens.

Every block below the fork point is shared, the unfull one included: nothing is copied and no space is needed. The
parent stays the appender of its unfull block, for it writes at or above its fill mark, which no fork point exceeds.
What the parent has left behind is of no child, so none can begin there.
A child owns nothing yet: it copies the unfull block when it first asks for write access (``extend``).
"""

from __future__ import annotations

import numpy as np

from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import MAX_SEQUENCES, Session
from quire_kvstore.state import State
from quire_proto.messages import CONFLICT, NO_SUCH, OK, Fork, Forked
from quire_proto.wire.u32 import unpack_u32


def fork(state: State, session: Session, item: Fork) -> Forked:
    """Add ``item.children`` at ``item.tokens`` tokens."""
    parent = session.sequences.get(item.parent)
    if parent is None:
        return Forked(NO_SUCH)
    children = unpack_u32(item.children)
    taken = len(set(children)) != len(children) or any(state.in_use(session, child) for child in children)
    inside = parent.behind * state.block_size <= item.tokens <= parent.fill
    if parent.offer or taken or not inside or len(session.sequences) + len(children) > MAX_SEQUENCES:
        return Forked(CONFLICT)
    shared = parent.table[: state.blocks_for(item.tokens)]
    whole = item.tokens // state.block_size
    # The pins below the fork point go along: the chain under a sealed block is held by each of its holders.
    pins = {index: block for index, block in parent.pins.items() if index < whole}
    pinned = np.array(sorted(pins.values()), np.int64)
    state.pool.retain(shared[parent.behind :], len(children))
    state.pool.retain(pinned, len(children))
    for child in children:
        session.sequences[child] = _child(state, parent, shared.copy(), dict(pins), item.tokens)
    state.counters.forks += len(children)
    return Forked(OK)


def _child(state: State, parent: Sequence, table: np.ndarray, pins: dict[int, int], tokens: int) -> Sequence:
    child = state.new_sequence(parent.account, table)
    child.fill = child.writable = child.prompt = tokens
    child.pins, child.behind = pins, parent.behind
    child.chained = parent.chained and tokens >= parent.published_tokens
    if child.chained:
        child.publication, child.publication_edition = parent.publication, parent.publication_edition
        child.published_tokens, child.private_from, child.anchor = (
            parent.published_tokens,
            parent.private_from,
            parent.anchor,
        )
        child.sealed = min(parent.sealed, tokens // state.block_size)
    return child
