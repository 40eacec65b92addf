"""Seal: full blocks get names, one run of a sequence or a block of each of many.

A seal never changes a table. If the digest is already the name of another block, that *canonical* block is named in
the reply and pinned by the sequence; the duplicate stays unindexed and goes when the session swaps. Blocks that lie
wholly inside a publication are not indexed under a tenant's chain: sealing them is answered as done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.change_log import Stored
from quire_kvstore.sharing.prefix_index import Entry
from quire_kvstore.state import NO_APPENDER, State
from quire_proto.messages import CONFLICT, NO_SPACE, NO_SUCH, OK, UNPUBLISHED, Seal, Sealed
from quire_proto.wire.digests import ROOT_PARENT, split
from quire_proto.wire.u32 import pack_u32

from .admission import trim_all
from .fill import fill_sequence


@dataclass(slots=True)
class _Plan:
    """What a seal will do: entries to add, their digests, and canonical rows (table index, block)."""

    new: list[Entry] = field(default_factory=list)
    names: set[bytes] = field(default_factory=set)
    canonical: list[tuple[int, int]] = field(default_factory=list)


def seal(state: State, session: Session, item: Seal) -> Sealed:
    """Index full blocks from ``item.first`` on; all of them or none."""
    sequence = session.sequences.get(item.sequence)
    if sequence is None:
        return Sealed(NO_SUCH)
    digests = split(item.digests)
    if item.tokens and len(item.tokens) != 4 * state.block_size * len(digests):
        return Sealed(CONFLICT)
    code, entries, canonical = _seal(state, sequence, item.first, digests)
    if code != OK:
        return Sealed(code)
    _enter(state, entries)
    _tell(state, sequence, entries, digests, item.tokens)
    if canonical:
        trim_all(state)
    return Sealed(OK, sealed=len(digests), canonical=pack_u32(canonical))


def complete_rows(state: State, session: Session, rows: bytes, digests: bytes) -> tuple[bytes, bytes]:
    """Acknowledge and seal what each row (sequence, table index, fill mark) names, under its digest.

    A batch that decodes sends one block of each of many sequences: what the pool and the claims note of blocks that got
    a name is written for all of them at once. Returns item codes, and rows (sequence, table index, canonical block).
    """
    if not rows:
        return b"", b""
    wanted = np.frombuffer(rows, "<u4").reshape(-1, 3).tolist()
    codes, replaced, named = bytearray(len(wanted)), list[int](), list[Entry]()
    journal = state.index.journal is not None
    for row, ((number, index, tokens), digest) in enumerate(zip(wanted, split(digests), strict=True)):
        sequence = session.sequences.get(number)
        code = NO_SUCH if sequence is None else fill_sequence(state, sequence, tokens)
        if sequence is None or code != OK:
            codes[row] = code
            continue
        entry = _extend_by_one(state, sequence, index, digest)
        if entry is not None:
            named.append(entry)
        else:
            codes[row], entries, canonical = _seal(state, sequence, index, [digest])
            named += entries
            replaced += (number, *canonical) if canonical else ()
        if journal and (entry is not None or entries):
            _tell(state, sequence, named[-1:], [digest], b"")
    _enter(state, named)
    if replaced:
        trim_all(state)
    return bytes(codes), pack_u32(replaced)


def _seal(state: State, sequence: Sequence, first: int, digests: list[bytes]) -> tuple[int, list[Entry], list[int]]:
    """Seal a run of blocks: an item code, what got a name, and canonical rows (table index, block)."""
    if sequence.offer or (first + len(digests)) * state.block_size > sequence.fill:
        return CONFLICT, [], []
    if first > sequence.sealed or not sequence.chained or 0 < sequence.behind >= first:
        return UNPUBLISHED, [], []
    entries = _extend_chain(state, sequence, first, digests)
    if entries is not None:
        return OK, entries, []
    plan = _Plan()
    for index, digest in enumerate(digests, first):
        code = _plan_one(state, sequence, plan, index, digest, digests[index - first - 1] if index > first else None)
        if code != OK:
            return code, [], []
    if _beyond_limit(state, sequence, plan):
        return NO_SPACE, [], []
    _apply(state, sequence, plan)
    sequence.sealed = max(sequence.sealed, first + len(digests))
    return OK, plan.new, [number for row in plan.canonical for number in row]


def _extend_chain(state: State, sequence: Sequence, first: int, digests: list[bytes]) -> list[Entry] | None:
    """Seal the next blocks of a chain under names that are new, as most are; None, and nothing happened, if not so."""
    if first != sequence.sealed or first < sequence.private_from or sequence.pins or not digests:
        return None
    if sequence.publication and first == sequence.private_from:
        return None  # its parent is the publication
    parent = _parent(state, sequence, first, None)
    if parent is None:
        return None
    blocks = sequence.table[first : first + len(digests)].tolist()
    entries = state.index.add_chain(blocks, digests, parent)
    if entries is not None:
        state.pool.policy.sealed_chain(blocks, digests, sequence.table.item(first - 1) if first else None)
        sequence.sealed = first + len(digests)
    return entries


def _extend_by_one(state: State, sequence: Sequence, index: int, digest: bytes) -> Entry | None:
    """The same for one block above another of its own chain: the step of a sequence that decodes."""
    if (
        index != sequence.sealed
        or index <= sequence.private_from
        or (index + 1) * state.block_size > sequence.fill
        or sequence.pins
        or not sequence.chained
        or 0 < sequence.behind >= index
    ):
        return None
    below = sequence.table.item(index - 1)
    entry = state.index.add_below(sequence.table.item(index), below, digest)
    if entry is not None:
        state.pool.policy.sealed(entry.block, digest, below)
        sequence.sealed = index + 1
    return entry


def _enter(state: State, entries: list[Entry]) -> None:
    """What the pool and the claims note of blocks that got a name."""
    if not entries:
        return
    blocks = np.array([entry.block for entry in entries], np.int64)
    state.pool.sealed[blocks] = True
    state.appender[blocks] = NO_APPENDER
    state.counters.seals += len(blocks)
    state.claims.sealed([entry.digest for entry in entries])


def _plan_one(state: State, sequence: Sequence, plan: _Plan, index: int, digest: bytes, previous: bytes | None) -> int:
    if index < sequence.private_from:
        return OK
    block = int(sequence.table[index])
    if index < sequence.sealed:
        entry = state.index.of_block(sequence.canonical(index))
        if entry is None:
            assert sequence.behind, "a sealed block is indexed while the chain above it is held"
            return UNPUBLISHED  # its name went with that of a block that was given back
        if entry.digest != digest:
            return CONFLICT
        if entry.block != block:
            plan.canonical.append((index, entry.block))
        return OK
    parent = _parent(state, sequence, index, previous)
    if parent is None:
        return UNPUBLISHED
    own, known = state.index.of_block(block), state.index.find(digest)
    # One name a block, one block a name, one parent a name: anything else is another tenant's or a made-up digest.
    if (own is not None and own is not known) or digest in plan.names or digest == ROOT_PARENT:
        return CONFLICT
    plan.names.add(digest)
    if known is not None and known.parent != parent:
        return CONFLICT
    if known is None:
        anchor = sequence.publication if sequence.publication and index == sequence.private_from else None
        plan.new.append(Entry(block, digest, parent, anchor))
    elif known.block != block:
        # Made-up digests may form a ring; a table never holds a block twice.
        if known.block in sequence.table or known.block in sequence.pins.values():
            return CONFLICT
        plan.canonical.append((index, known.block))
    return OK


def _parent(state: State, sequence: Sequence, index: int, previous: bytes | None) -> bytes | None:
    """Digest of the block before ``index``, or None if it has none in this chain."""
    if index == 0:
        return ROOT_PARENT
    if sequence.publication and index == sequence.private_from:
        return sequence.anchor
    if previous is not None:
        return previous
    entry = state.index.of_block(sequence.canonical(index - 1))
    return None if entry is None else entry.digest


def _beyond_limit(state: State, sequence: Sequence, plan: _Plan) -> bool:
    """Whether pinning the canonical blocks would charge an account more than its limit.

    One in quarantine is charged to its owner again. Its cache can make way for that, what it holds cannot.
    """
    if not state.quotas.active or not plan.canonical:
        return False
    pins = np.array([block for index, block in plan.canonical if index not in sequence.pins], np.int64)
    unheld = pins[state.pool.refs[pins] == state.pool.quarantined_refs[pins]]
    held = state.charges.held.copy()
    np.add.at(held, state.charges.owner[unheld], 1)
    return bool((held > state.quotas.limit).any())


def _apply(state: State, sequence: Sequence, plan: _Plan) -> None:
    for entry in plan.new:
        state.index.add(entry)
        parent = None if entry.anchor is not None else state.index.find(entry.parent)
        state.pool.policy.sealed(entry.block, entry.digest, None if parent is None else parent.block)
    for index, block in plan.canonical:
        if index not in sequence.pins:
            state.pool.retain(np.array([block], np.int64))
            sequence.pins[index] = block
            # A block that was begun by a copy of the canonical one was not computed twice.
            state.counters.duplicates += index * state.block_size >= sequence.matched
            if sequence.publication and index == sequence.private_from:
                state.anchor(block, sequence.publication)


def _tell(state: State, sequence: Sequence, entries: list[Entry], digests: list[bytes], tokens: bytes) -> None:
    """Tell the journal of new names, if there is one. ``tokens``: of all blocks that ``digests`` name, or none."""
    if state.index.journal is None or not entries:
        return
    tenant, each = state.accounts[sequence.account].name, 4 * state.block_size
    known = {digest: tokens[i * each : (i + 1) * each] for i, digest in enumerate(digests)}
    stored = []
    for entry in entries:
        anchor = None if entry.anchor is None else (entry.anchor, sequence.publication_edition)
        stored.append(Stored(entry.digest, entry.parent, anchor, tenant, known[entry.digest]))
    state.index.journal.stored(stored)
