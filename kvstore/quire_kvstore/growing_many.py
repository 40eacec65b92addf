"""Extending many sequences at once: the step of a batch that decodes.

The result is that of ``growing.extend`` for one row after the other. Most rows of a step are *plain*: the sequence may
write all of its table and wants more blocks, so nothing is copied. If there is room for all rows and nobody has a
quota, the order in which they are served makes no difference, and the plain ones are served together: one look at the
free list, one entry in each array. Every other row is one of its own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from quire_proto.messages import NO_SPACE, OK, Extend, Shortage

from .content import owed
from .growing import extend
from .pool import Ids
from .room import make_room
from .sessions import Session
from .state import State
from .tables import Sequence


@dataclass(slots=True)
class Extensions:
    """Results of many extends: the fields of ``Stepped``. ``blocks``: rows (sequence, table index, block)."""

    codes: bytearray
    blocks: list[Ids] = field(default_factory=list)
    copies: bytes = b""
    scrub: bytes = b""
    shortages: list[Shortage] = field(default_factory=list)

    def packed_blocks(self) -> bytes:
        """All rows as little-endian u32."""
        return np.concatenate(self.blocks).astype("<u4").tobytes() if self.blocks else b""


@dataclass(slots=True)
class _Plain:
    """Plain rows of one account: numbers of the sequences, the sequences, and how many blocks each wants."""

    numbers: list[int] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


def extend_many(state: State, session: Session, rows: bytes) -> Extensions:
    """Capacity and write access for each row (sequence, tokens)."""
    wanted = np.frombuffer(rows, "<u4").reshape(-1, 2).tolist()
    found = Extensions(bytearray(len(wanted)))
    plain, others, most = _sort(state, session, wanted)
    if state.quotas.active or most > state.pool.available():
        plain, others = {}, list(range(len(wanted)))
    for account, part in plain.items():
        _grant(state, account, part, found)
    for row in others:
        number, tokens = wanted[row]
        found.codes[row] = _one(state, session, number, tokens, found)
    return found


def _sort(state: State, session: Session, wanted: list[list[int]]) -> tuple[dict[int, _Plain], list[int], int]:
    """Plain rows by account, the numbers of the other rows, and how many blocks all of them want at most."""
    plain: dict[int, _Plain] = defaultdict(_Plain)
    others, most, size, seen = [], 0, state.block_size, set()
    for row, (number, tokens) in enumerate(wanted):
        sequence = session.sequences.get(number)
        if (
            sequence is None
            or sequence.offer
            or tokens <= sequence.writable
            or sequence.writable != len(sequence.table) * size
            or number in seen
        ):
            others.append(row)
            most += 0 if sequence is None else max(0, (tokens + size - 1) // size - len(sequence.table)) + 1
            continue
        seen.add(number)
        part = plain[sequence.account]
        count = (tokens - sequence.writable + size - 1) // size
        part.numbers.append(number)
        part.sequences.append(sequence)
        part.counts.append(count)
        most += count
    return plain, others, most


def _grant(state: State, account: int, part: _Plain, found: Extensions) -> None:
    """Give each sequence its blocks, behind those that it has."""
    total = sum(part.counts)
    make_room(state, account, total)
    fresh = state.pool.take(total, account)
    sequences, size = part.sequences, state.block_size
    state.counters.extends += len(sequences)
    state.appender[fresh] = np.repeat([sequence.uid for sequence in sequences], part.counts)
    clean = state.content.granted_clean(fresh, account)
    ends = np.cumsum(part.counts)
    rows = np.empty((total, 3), np.int64)
    rows[:, 0] = np.repeat(part.numbers, part.counts)
    rows[:, 1] = np.repeat([len(sequence.table) for sequence in sequences] - ends + part.counts, part.counts)
    rows[:, 1] += np.arange(total)
    rows[:, 2] = fresh
    found.blocks.append(rows)
    given, start = fresh.tolist(), 0
    for sequence, count in zip(sequences, part.counts, strict=True):
        sequence.grow(given[start : start + count])
        sequence.writable += count * size
        start += count
    if not clean:
        for sequence, blocks in zip(sequences, np.split(fresh, ends[:-1]), strict=True):
            state.content.granted(blocks, sequence)
            found.scrub += owed(sequence, blocks)


def _one(state: State, session: Session, number: int, tokens: int, found: Extensions) -> int:
    """One row by itself; returns its code."""
    answer = extend(state, session, Extend(number, tokens))
    if answer.code == NO_SPACE:
        short = Shortage(number, answer.missing, answer.scope, answer.retry_after_ms, answer.account)
        found.shortages.append(short)
    if answer.code == OK and answer.blocks:
        given = np.frombuffer(answer.blocks, "<u4").astype(np.int64)
        places = np.arange(answer.first, answer.first + len(given))
        found.blocks.append(np.column_stack((np.full(len(given), number), places, given)))
        found.copies += answer.copies
        found.scrub += answer.scrub
    return answer.code
