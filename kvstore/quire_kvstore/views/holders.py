"""Holders: whose a block is. Looked for on request through all tables, as no account of it is kept."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np

from quire_kvstore.blocks.pool import STATE_NAMES
from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.state import State
from quire_kvstore.tenants.accounts import QUARANTINE
from quire_proto.messages.pool_map import BlockHolder, BlockInfo

MOST_HOLDERS = 64
SEQUENCES_A_SLICE, BLOCKS_A_SLICE = 256, 1 << 17


def block_info(state: State, block: int) -> Generator[bool, None, BlockInfo]:
    """All that is known of a block, which must be one. What changes while it is looked for may be told either way."""
    found = list[BlockHolder]()
    sequences = looked = 0
    for session in state.sessions.all():
        for number, sequence in list(session.sequences.items()):
            tenant = state.accounts[sequence.account].name
            for holds, place in _references(sequence, block):
                found.append(BlockHolder(session.name, session.state, number, tenant, holds, place))
            sequences, looked = sequences + 1, looked + len(sequence.table)
            if sequences >= SEQUENCES_A_SLICE or looked >= BLOCKS_A_SLICE:
                sequences = looked = 0
                yield False
    pool = state.pool
    owner, quarantined = int(pool.charges.owner[block]), int(pool.quarantined_refs[block])
    name = STATE_NAMES[int(pool.states(slice(block, block + 1))[0])]
    published = [
        one.id for one in state.publications.all() if one.table is not None and bool((one.table == block).any())
    ]
    return BlockInfo(
        block=block,
        state=name,
        account=QUARANTINE if name == "quarantined" else state.accounts[owner].name if owner >= 0 else "",
        references=int(pool.refs[block]),
        quarantined=quarantined,
        sealed=bool(pool.sealed[block]),
        publications=tuple(published),
        holders=tuple(found[:MOST_HOLDERS]),
        more=max(0, len(found) - MOST_HOLDERS),
    )


def _references(sequence: Sequence, block: int) -> Iterator[tuple[str, int]]:
    """How a sequence holds a block, if it does: kind and index in its table."""
    for index in np.flatnonzero(sequence.table == block).tolist():
        yield "table", index
    for index, pinned in sequence.pins.items():
        if pinned == block:
            yield "pin", index
    for copy in sequence.copies.values():
        if copy.src == block:
            yield "copy", int(np.flatnonzero(sequence.table == copy.dst)[0])
