"""Sealing one block of each of many sequences: the step of a batch that decodes.

The result is that of ``sealing.fill`` and then ``sealing.seal`` for one row after the other. Most rows are *plain*: the
sequence seals its next block, under a digest that names nothing yet, above a block of its own chain. For these nothing
is planned: the name is entered, and what the pool notes of a block is written for all of them at once, at the end.
Every other row is one of its own.
"""

from __future__ import annotations

import numpy as np

from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.change_log import Stored
from quire_kvstore.sharing.prefix_index import Entry
from quire_kvstore.state import NOBODY, State
from quire_proto.digests import split
from quire_proto.messages import OK, Seal
from quire_proto.packed import pack, unpack

from .seal import fill, promote, seal


def complete_many(state: State, session: Session, rows: bytes, digests: bytes) -> tuple[bytes, bytes]:
    """Acknowledge and seal what each row (sequence, table index, fill mark) names, under its digest.

    Returns item codes, and rows (sequence, table index, canonical block).
    """
    wanted = np.frombuffer(rows, "<u4").reshape(-1, 3).tolist()
    codes, canonical = bytearray(len(wanted)), []
    sealed: list[Entry] = []
    for row, ((number, index, tokens), digest) in enumerate(zip(wanted, split(digests), strict=True)):
        sequence = session.sequences.get(number)
        entry = None if sequence is None else _plainly(state, sequence, index, tokens, digest)
        if entry is not None:
            sealed.append(entry)
            continue
        code = fill(state, session, number, tokens)
        if code == OK:
            answer = seal(state, session, Seal(number, index, digest))
            code = answer.code
            for place, block in zip(*[iter(unpack(answer.canonical))] * 2, strict=True):
                canonical += [number, place, block]
        codes[row] = code
    if sealed:
        blocks = np.array([entry.block for entry in sealed], np.int64)
        state.pool.sealed[blocks] = True
        state.appender[blocks] = NOBODY
        state.counters.seals += len(blocks)
        state.claims.sealed([entry.digest for entry in sealed])
    return bytes(codes), pack(canonical)


def _plainly(state: State, sequence: Sequence, index: int, tokens: int, digest: bytes) -> Entry | None:
    """Set the marks of a plain row and enter its name; None, and nothing happened, if it is not plain."""
    fill_before, table = sequence.fill, sequence.table
    if (
        index != sequence.sealed
        or index <= sequence.private_from
        or not (index + 1) * state.block_size <= tokens <= sequence.writable
        or fill_before > tokens
        or sequence.pins
        or sequence.offer
        or not sequence.chained
        or len(sequence.scrubs)
    ):
        return None
    below = table.item(index - 1)
    entry = state.index.add_below(table.item(index), below, digest)
    if entry is None:
        return None
    state.counters.computed_tokens += tokens - fill_before
    sequence.fill, sequence.sealed = tokens, index + 1
    if sequence.publication:
        promote(state, sequence)
    if state.index.journal is not None:
        tenant = state.accounts[sequence.account].name
        state.index.journal.stored([Stored(digest, entry.parent, None, tenant, b"")])
    state.pool.policy.sealed(entry.block, digest, below)
    return entry
