"""Marks and names: acknowledged fills, seals, swaps.

A seal never changes a table. If the digest is already the name of another block, that *canonical* block is named in
the reply and pinned by the sequence; the duplicate stays unindexed and goes when the session swaps. Blocks that lie
wholly inside a publication are not indexed under a tenant's chain: sealing them is answered as done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from quire_kvstore.blocks.pool import Ids
from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.change_log import Prompt, Stored
from quire_kvstore.sharing.claims import publication_key
from quire_kvstore.sharing.prefix_index import Entry
from quire_kvstore.state import NOBODY, State
from quire_proto.digests import ROOT_PARENT, split
from quire_proto.messages import CONFLICT, NO_SPACE, NO_SUCH, OK, UNPUBLISHED, Seal, Sealed
from quire_proto.packed import pack

from .admission import trim_all


@dataclass(slots=True)
class _Plan:
    """What a seal will do: entries to add, their digests, and canonical rows (table index, block)."""

    new: list[Entry] = field(default_factory=list)
    names: set[bytes] = field(default_factory=set)
    canonical: list[tuple[int, int]] = field(default_factory=list)


def fill(state: State, session: Session, number: int, tokens: int) -> int:
    """Acknowledge that the first ``tokens`` tokens are written; returns an item code."""
    sequence = session.sequences.get(number)
    if sequence is None:
        return NO_SUCH
    if sequence.offer or not sequence.fill <= tokens <= sequence.writable:
        return CONFLICT
    if tokens > sequence.fill:  # else nothing new is written: a copy's target may still hold what it held
        state.counters.computed_tokens += tokens - sequence.fill
        written = sequence.table[sequence.fill // state.block_size : state.blocks_for(tokens)]
        state.content.filled(sequence, written)
        sequence.fill = tokens
    if sequence.publication:
        promote(state, sequence)
    return OK


def promote(state: State, sequence: Sequence) -> None:
    """Fork the frozen publication sequence off the first sequence that has computed all of it."""
    record = state.publications.get(sequence.publication)
    if record is None or record.made != sequence.publication_made:
        return  # it was unpublished, or is another prompt by now
    if record.table is None and sequence.fill >= record.count:
        table = sequence.table[: state.blocks_for(record.count)].copy()
        if state.accounts.publish(table, state.accounts.of_domain(record.domain)):
            record.table = table
            state.pool.retain(table)
            state.claims.sealed([publication_key(record.id, record.made)])
            if state.index.journal is not None:
                generation = state.groups.generation(record.domain)
                prompt = Prompt(record.id, record.domain, generation, record.packed)
                state.index.journal.published((record.id, record.made), prompt)


def seal(state: State, session: Session, item: Seal) -> Sealed:
    """Index full blocks from ``item.first`` on; all of them or none."""
    sequence = session.sequences.get(item.sequence)
    if sequence is None:
        return Sealed(NO_SUCH)
    digests = split(item.digests)
    if item.tokens and len(item.tokens) != 4 * state.block_size * len(digests):
        return Sealed(CONFLICT)
    if sequence.offer or (item.first + len(digests)) * state.block_size > sequence.fill:
        return Sealed(CONFLICT)
    if item.first > sequence.sealed or not sequence.chained:
        return Sealed(UNPUBLISHED)
    if _plainly(state, sequence, item, digests):
        return Sealed(OK, sealed=len(digests))
    plan = _Plan()
    for index, digest in enumerate(digests, item.first):
        code = _plan_one(
            state, sequence, plan, index, digest, digests[index - item.first - 1] if index > item.first else None
        )
        if code != OK:
            return Sealed(code)
    if _beyond_limit(state, sequence, plan):
        return Sealed(NO_SPACE)
    _apply(state, sequence, plan)
    if plan.canonical:
        trim_all(state)
    _tell(state, sequence, plan.new, item)
    sequence.sealed = max(sequence.sealed, item.first + len(digests))
    rows = [number for row in plan.canonical for number in row]
    return Sealed(OK, sealed=len(digests), canonical=pack(rows))


def _plainly(state: State, sequence: Sequence, item: Seal, digests: list[bytes]) -> bool:
    """Seal the next blocks of a chain under names that are new, as most are; False, and nothing happened, if not so."""
    first = item.first
    if first != sequence.sealed or first < sequence.private_from or sequence.pins or not digests:
        return False
    parent = _parent(state, sequence, first, None)
    blocks = sequence.table[first : first + len(digests)]
    if parent is None or (sequence.publication and first == sequence.private_from) or ROOT_PARENT in digests:
        return False
    if len(set(digests)) != len(digests) or not state.index.lacks(digests) or bool(state.pool.sealed[blocks].any()):
        return False
    ids = blocks.tolist()
    entries = list(map(Entry, ids, digests, [parent, *digests[:-1]]))
    state.index.add_chain(entries)
    state.pool.policy.sealed_chain(ids, digests, int(sequence.table[first - 1]) if first else None)
    _enter(state, blocks, digests)
    sequence.sealed = first + len(digests)
    _tell(state, sequence, entries, item)
    return True


def _enter(state: State, blocks: Ids, digests: list[bytes]) -> None:
    """What the pool and the claims note of blocks that got a name."""
    state.pool.sealed[blocks] = True
    state.appender[blocks] = NOBODY
    state.counters.seals += len(blocks)
    state.claims.sealed(digests)


def _plan_one(state: State, sequence: Sequence, plan: _Plan, index: int, digest: bytes, previous: bytes | None) -> int:
    if index < sequence.private_from:
        return OK
    block = int(sequence.table[index])
    if index < sequence.sealed:
        entry = state.index.of_block(sequence.canonical(index))
        assert entry is not None, "a sealed block is indexed"
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

    One in quarantine is charged to its owner again. His cache can make way for that, what he holds cannot.
    """
    if not state.quotas.active or not plan.canonical:
        return False
    pins = np.array([block for index, block in plan.canonical if index not in sequence.pins], np.int64)
    unheld = pins[state.pool.refs[pins] == state.pool.quarantined_refs[pins]]
    held = state.books.held.copy()
    np.add.at(held, state.books.owner[unheld], 1)
    return bool((held > state.quotas.limit).any())


def _apply(state: State, sequence: Sequence, plan: _Plan) -> None:
    for entry in plan.new:
        state.index.add(entry)
        parent = None if entry.anchor is not None else state.index.find(entry.parent)
        state.pool.policy.sealed(entry.block, entry.digest, None if parent is None else parent.block)
    if plan.new:
        _enter(state, np.array([entry.block for entry in plan.new], np.int64), [entry.digest for entry in plan.new])
    for index, block in plan.canonical:
        if index not in sequence.pins:
            state.pool.retain(np.array([block], np.int64))
            sequence.pins[index] = block
            # A block that was begun by a copy of the canonical one was not computed twice.
            state.counters.duplicates += index * state.block_size >= sequence.matched
            if sequence.publication and index == sequence.private_from:
                state.anchor(block, sequence.publication)


def _tell(state: State, sequence: Sequence, entries: list[Entry], item: Seal) -> None:
    """Tell the journal of new names, if there is one."""
    if state.index.journal is None:
        return
    tenant, each = state.accounts[sequence.account].name, 4 * state.block_size
    tokens = {digest: item.tokens[i * each : (i + 1) * each] for i, digest in enumerate(split(item.digests))}
    told = []
    for new in entries:
        anchor = None if new.anchor is None else (new.anchor, sequence.publication_made)
        told.append(Stored(new.digest, new.parent, anchor, tenant, tokens[new.digest]))
    state.index.journal.stored(told)


def swap(state: State, session: Session, number: int, index: int, block: int) -> int:
    """Put the canonical block into the table, or keep the present one (``block`` equals it); an item code.

    Declined or not, the chain stays held: a pin that is not swapped in stays until the sequence is freed.
    """
    sequence = session.sequences.get(number)
    if sequence is None:
        return NO_SUCH
    if sequence.offer or index >= len(sequence.table):
        return CONFLICT
    present = int(sequence.table[index])
    if block == present:
        return OK
    if sequence.pins.get(index) != block:
        return CONFLICT
    del sequence.pins[index]  # the pin's reference becomes the table's
    sequence.table[index] = block
    if int(state.appender[present]) == sequence.uid:
        state.appender[present] = NOBODY
    state.pool.release(np.array([present], np.int64))
    return OK
