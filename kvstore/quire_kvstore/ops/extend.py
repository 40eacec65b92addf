"""Extend: more capacity for a sequence, with copy-on-write; for many sequences at once where a batch decodes.

Everything or nothing: space is counted first, and a reply of "no space" leaves the store as it was.

The result of many rows is that of one row after the other. Most rows of a step are *plain*: the sequence may write all
of its table and wants more blocks, so nothing is copied. If there is space for all rows and no tenant has a quota, the
order in which they are served makes no difference, and the plain ones are served together: one look at the free list,
one entry in each array. Every other row is one of its own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from quire_kvstore.sessions.scrub import owed
from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import Session
from quire_kvstore.state import State
from quire_proto.messages import CONFLICT, NO_SPACE, NO_SUCH, OK, Extend, Extended, Shortage
from quire_proto.wire.u32 import unpack_u32

from .admission import make_space, no_space, shortage
from .copies import ask_copy


def extend(state: State, session: Session, item: Extend) -> Extended:
    """Capacity for ``item.tokens`` tokens and write access to every slot from the fill mark on."""
    sequence = session.sequences.get(item.sequence)
    if sequence is None:
        return Extended(NO_SUCH)
    if sequence.offer:
        return Extended(CONFLICT)
    have = len(sequence.table)
    if item.tokens <= sequence.writable:
        return Extended(OK, first=have)
    want = max(state.blocks_for(item.tokens), have)
    shared = _shared_tail(state, sequence)
    count = want - have + (shared is not None)
    short = shortage(state, sequence.account, count, sequence.held)
    if short is not None:
        return no_space(state, Extended, short)

    state.counters.extends += 1
    first, copies = have, b""
    make_space(state, sequence.account, count)
    if shared is not None:
        assert shared == have - 1, "a sequence that must copy has nothing past the block to be copied"
        first = shared
        fresh = state.grant(count, sequence)
        src, slots = int(sequence.table[first]), sequence.fill % state.block_size
        copies = ask_copy(state, session, item.sequence, sequence, src, int(fresh[0]), slots)
    else:
        fresh = state.grant(count, sequence)
        _become_appender(state, sequence)
    sequence.table = np.concatenate((sequence.table[:first], fresh))
    sequence.writable = want * state.block_size
    return Extended(OK, first=first, blocks=fresh.astype("<u4").tobytes(), copies=copies, scrub=owed(sequence, fresh))


def _shared_tail(state: State, sequence: Sequence) -> int | None:
    """Table index of the unfull block that must be copied before it is written, or None."""
    if sequence.fill % state.block_size == 0:
        return None
    index = sequence.fill // state.block_size
    block = int(sequence.table[index])
    if int(state.appender[block]) == sequence.uid:
        return None
    # A block that is not known to have been scrubbed stays what it is: to scrub it now would wipe what was copied in.
    known = int(state.scrub_map.account[block]) == sequence.account
    sole_survivor = known and int(state.pool.refs[block]) == 1 and not bool(state.pool.sealed[block])
    return None if sole_survivor else index


def _become_appender(state: State, sequence: Sequence) -> None:
    """A sole survivor takes over its unfull block; for an appender this changes nothing."""
    if sequence.fill % state.block_size:
        state.appender[sequence.table[sequence.fill // state.block_size]] = sequence.uid


@dataclass(slots=True)
class Extensions:
    """Results of many extends: the fields of ``Stepped``. ``blocks``: (sequence, table index, block) in a row."""

    codes: bytearray
    blocks: list[int] = field(default_factory=list)
    copies: bytes = b""
    scrub: bytes = b""
    shortages: list[Shortage] = field(default_factory=list)


@dataclass(slots=True)
class _Plain:
    """Plain rows of one account: numbers of the sequences, the sequences, and how many blocks each wants."""

    numbers: list[int] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


def extend_rows(state: State, session: Session, rows: bytes) -> Extensions:
    """Capacity and write access for each row (sequence, tokens)."""
    found = Extensions(bytearray(len(rows) // 8))
    if not rows:
        return found
    wanted = np.frombuffer(rows, "<u4").reshape(-1, 2).tolist()
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
    total, size, start = sum(part.counts), state.block_size, 0
    make_space(state, account, total)
    fresh = state.pool.allocate(total, account)
    clean, given = state.scrub_map.granted_clean(fresh, account), fresh.tolist()
    writers = []
    for number, sequence, count in zip(part.numbers, part.sequences, part.counts, strict=True):
        have, blocks = len(sequence.table), given[start : start + count]
        for place, block in enumerate(blocks, have):
            found.blocks += (number, place, block)
            writers.append(sequence.uid)
        sequence.grow(blocks)
        sequence.writable += count * size
        start += count
        if not clean:
            state.scrub_map.granted(np.array(blocks, np.int64), sequence)
            found.scrub += owed(sequence, np.array(blocks, np.int64))
    state.appender[fresh] = writers
    state.counters.extends += len(part.sequences)


def _one(state: State, session: Session, number: int, tokens: int, found: Extensions) -> int:
    """One row by itself; returns its code."""
    answer = extend(state, session, Extend(number, tokens))
    if answer.code == NO_SPACE:
        short = Shortage(number, answer.missing, answer.scope, answer.retry_after_ms, answer.account)
        found.shortages.append(short)
    if answer.code == OK and answer.blocks:
        for place, block in enumerate(unpack_u32(answer.blocks), answer.first):
            found.blocks += (number, place, block)
        found.copies += answer.copies
        found.scrub += answer.scrub
    return answer.code
