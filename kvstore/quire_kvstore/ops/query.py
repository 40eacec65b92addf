"""Reading: what ``stats`` and ``lookup`` answer. Nothing here changes the store.

Filled slots are counted on request, in one pass over all tables laid end to end: the hot path keeps no
second account that could drift.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quire_kvstore.blocks.ids import Ids
from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.state import State
from quire_proto.messages import Found, Lookup, SessionInfo
from quire_proto.wire.digests import split


def lookup(state: State, item: Lookup) -> Found | None:
    """Blocks of a publication or of a digest chain; None for an unknown publication."""
    return lookup_publication(state, item.publication) if item.publication else lookup_digests(state, item)


def lookup_publication(state: State, identity: str) -> Found | None:
    """The blocks of a publication (none while it is pending), or None if there is no such publication."""
    published = state.publications.get(identity)
    if published is None:
        return None
    return Found(0, b"", b"") if published.table is None else _found(state, published.table, published.count)


def lookup_digests(state: State, item: Lookup) -> Found:
    """The blocks of the longest sealed prefix of a digest chain."""
    digests = split(item.digests)
    blocks = np.array(state.index.longest(digests, 0, len(digests)), np.int64)
    return _found(state, blocks, len(blocks) * state.block_size)


def _found(state: State, blocks: Ids, tokens: int) -> Found:
    return Found(tokens, blocks.astype("<u4").tobytes(), state.pool.refs[blocks].astype("<u4").tobytes())


def slots(state: State) -> dict[str, int]:
    """Slots of all blocks that are neither free nor cached, and how many of them hold an acknowledged token.

    A block counts once, with the most that any of its sharers has written into it.
    """
    filled = np.where(state.pool.sealed, state.block_size, 0)
    live = [s for session in state.sessions.all() for s in session.sequences.values()]
    _fill_tables(state, filled, live)
    for sequence in live:
        for copy in sequence.copies.values():
            filled[copy.src] = max(int(filled[copy.src]), copy.slots)
    for published in state.publications.all():
        if published.table is not None:
            counts = np.minimum(published.count - np.arange(len(published.table)) * state.block_size, state.block_size)
            filled[published.table] = np.maximum(filled[published.table], counts)
    in_use = state.pool.refs > 0
    capacity = int(np.count_nonzero(in_use)) * state.block_size
    return {"filled": int(filled[in_use].sum()), "capacity": capacity}


def _fill_tables(state: State, filled: NDArray[np.int64], live: list[Sequence]) -> None:
    live = [sequence for sequence in live if len(sequence.held)]
    if not live:
        return
    lengths = np.array([len(sequence.held) for sequence in live])
    fills = np.array([sequence.fill - sequence.behind * state.block_size for sequence in live]).repeat(lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = (np.arange(len(starts)) - starts) * state.block_size
    tables = np.concatenate([sequence.held for sequence in live])
    np.maximum.at(filled, tables, np.clip(fills - positions, 0, state.block_size))


def sessions(state: State, now_ms: int) -> tuple[SessionInfo, ...]:
    """All sessions as ``stats`` shows them."""
    return tuple(
        SessionInfo(
            name=session.name,
            state=session.state,
            pid=session.peer.pid if session.peer else 0,
            sequences=len(session.sequences),
            blocks=session.references(),
            progress=session.progress,
            lease_ms_left=max(0, session.lease_until - now_ms),
            unsent=session.unsent,
        )
        for session in state.sessions.all()
    )
