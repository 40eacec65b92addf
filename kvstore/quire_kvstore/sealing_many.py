"""Sealing one block of each of many sequences: the step of a batch that decodes.

The result is that of ``sealing.fill`` and then ``sealing.seal`` for one row after the other. Most rows are *plain*: the
sequence seals its next block, under a digest that names nothing yet, above a block of its own chain. For these nothing
is planned: the name is entered, and what the pool notes of a block is written for all of them at once, at the end.
Every other row is one of its own.
"""

from __future__ import annotations

import numpy as np

from quire_proto.digests import ROOT_PARENT, split
from quire_proto.messages import OK, Seal
from quire_proto.packed import pack, unpack

from .index import Entry
from .journal import Stored
from .sealing import fill, promote, seal
from .sessions import Session
from .state import NOBODY, State
from .tables import Sequence


def complete_many(state: State, session: Session, rows: bytes, digests: bytes) -> tuple[bytes, bytes]:
    """Acknowledge and seal what each row (sequence, table index, fill mark) names, under its digest.

    Returns item codes, and rows (sequence, table index, canonical block).
    """
    wanted = np.frombuffer(rows, "<u4").reshape(-1, 3).tolist()
    codes, canonical = bytearray(len(wanted)), []
    sealed: list[Entry] = []
    for row, ((number, index, tokens), digest) in enumerate(zip(wanted, split(digests), strict=True)):
        sequence = session.sequences.get(number)
        entry = None if sequence is None else _plain(state, sequence, index, tokens, digest)
        if sequence is not None and entry is not None:
            _enter(state, sequence, entry, index, tokens)
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
        blocks = [entry.block for entry in sealed]
        state.pool.sealed[blocks] = True
        state.appender[blocks] = NOBODY
        state.counters.seals += len(blocks)
        state.claims.sealed([entry.digest for entry in sealed])
    return bytes(codes), pack(canonical)


def _plain(state: State, sequence: Sequence, index: int, tokens: int, digest: bytes) -> Entry | None:
    """The entry that a row makes in the index, or None if it is not plain."""
    if (
        index != sequence.sealed
        or index <= sequence.private_from
        or (index + 1) * state.block_size > tokens
        or not sequence.fill <= tokens <= sequence.writable
        or sequence.pins
        or sequence.offer
        or not sequence.chained
        or len(sequence.scrubs)
        or digest == ROOT_PARENT
    ):
        return None
    block, parent = sequence.table.item(index), state.index.of_block(sequence.table.item(index - 1))
    if parent is None or state.index.find(digest) is not None or state.index.of_block(block) is not None:
        return None
    return Entry(block, digest, parent.digest)


def _enter(state: State, sequence: Sequence, entry: Entry, index: int, tokens: int) -> None:
    """The marks of a plain row, and its name."""
    state.counters.computed_tokens += tokens - sequence.fill
    sequence.fill, sequence.sealed = tokens, index + 1
    if sequence.publication:
        promote(state, sequence)
    state.index.add(entry)
    if state.index.journal is not None:
        tenant = state.accounts[sequence.account].name
        state.index.journal.stored([Stored(entry.digest, entry.parent, None, tenant, b"")])
    state.pool.policy.sealed(entry.block, entry.digest, sequence.table.item(index - 1))
