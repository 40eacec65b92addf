"""The store's invariants, checked from scratch: every count is recomputed from the tables and compared.

Runs after each step of the state machine in the tests and, in debug mode, whenever the server is idle. Raises
AssertionError naming the first thing that is wrong.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from quire_kvstore.blocks.pool import CACHED, FREE, HELD, QUARANTINED
from quire_kvstore.sessions.scrub import MIXED
from quire_kvstore.sessions.sequence import GIVEN_BACK, Sequence
from quire_kvstore.sessions.session import FENCED, READY, Session
from quire_kvstore.state import NO_APPENDER, State
from quire_proto.wire.digests import ROOT_PARENT


def check(state: State) -> None:
    """All invariants."""
    for session in state.sessions.all():
        for sequence in session.sequences.values():
            _hole(state, sequence)
    _references(state)
    _partition(state)
    for session in state.sessions.all():
        _ledger(session)
        for sequence in session.sequences.values():
            _sequence(state, sequence)
    _appenders(state)
    _offers(state)
    _index(state)
    _accounts(state)
    _claims(state)


def _hole(state: State, sequence: Sequence) -> None:
    """What was given back is full and names no block, and nothing else does."""
    assert 0 <= sequence.behind * state.block_size <= sequence.fill, "unwritten blocks given back"
    assert (sequence.table[: sequence.behind] == GIVEN_BACK).all(), "a block in the hole of a table"
    assert (sequence.held < state.pool.size).all(), "a hole that no one knows of"


def _references(state: State) -> None:
    """Refcount = table entries + pins; quarantined = those of fenced sessions."""
    expected, fenced = np.zeros(state.pool.size, np.int64), np.zeros(state.pool.size, np.int64)
    for session in state.sessions.all():
        for sequence in session.sequences.values():
            for ids in (sequence.held, sequence.pin_ids(), sequence.copy_ids()):
                np.add.at(expected, ids, 1)
                if session.state == FENCED:
                    np.add.at(fenced, ids, 1)
    for published in state.publications.all():
        if published.table is not None:
            np.add.at(expected, published.table, 1)
    wrong = np.flatnonzero((expected != state.pool.refs) | (fenced != state.pool.quarantined_refs))
    assert not len(wrong), f"block {wrong[:1]}: refs {state.pool.refs[wrong[:1]]}, expected {expected[wrong[:1]]}"


def _partition(state: State) -> None:
    """Each block is in one state, and stack, LRU and counts agree on which."""
    pool = state.pool
    free, cached = pool.free_ids().tolist(), pool.cached_ids()
    assert len(set(free) | set(cached)) == len(free) + len(cached), "a block is free or cached twice"
    unreferenced = np.flatnonzero(pool.refs == 0).tolist()
    assert sorted(free + cached) == unreferenced, "unreferenced blocks are free or cached"
    assert len(pool.policy) == pool.cached == len(cached), "cached blocks counted"
    assert len(free) == pool.free, "free blocks counted"
    assert pool.sealed[cached].all(), "cached but not sealed"
    assert not pool.sealed[free].any(), "free but sealed"
    counts = pool.counts()
    assert min(counts.values()) >= 0, "a negative count"
    assert counts["total"] == sum(counts[name] for name in ("free", "held", "cached", "quarantined")), "counts"
    assert int(np.count_nonzero(pool.states() == FREE)) == counts["free"], "states and counts"


def _ledger(session: Session) -> None:
    """The session's copies are those of its sequences."""
    owed = {copy_id: number for number, s in session.sequences.items() for copy_id in s.copies}
    assert owed == session.copies, "copies of the session and of its sequences"


def _sequence(state: State, sequence: Sequence) -> None:
    """Marks in order, write access as promised, pins and chain as promised."""
    size, capacity = state.block_size, len(sequence.table) * state.block_size
    assert sequence.sealed * size <= sequence.fill <= sequence.writable <= capacity, "marks out of order"
    assert len(set(sequence.held.tolist())) == len(sequence.held), "a block twice in one table"
    if sequence.writable > sequence.fill:
        own = sequence.table[sequence.fill // size : state.blocks_for(sequence.writable)]
        assert (state.appender[own] == sequence.uid).all(), "writable without being the appender"
    assert sequence.chained or sequence.sealed == 0, "sealed outside any chain"
    _chain(state, sequence)
    assert all(sequence.behind <= index < sequence.sealed for index in sequence.pins), "a pin outside the sealed prefix"


def _chain(state: State, sequence: Sequence) -> None:
    """What is sealed is a chain of names; below a hole each may be gone, but what there is hangs together."""
    parent = sequence.anchor if sequence.publication and sequence.private_from else ROOT_PARENT
    known = sequence.behind <= sequence.private_from
    for index in range(max(sequence.private_from, sequence.behind), sequence.sealed):
        entry = state.index.of_block(sequence.canonical(index))
        assert entry is not None or sequence.behind, "sealed but not indexed"
        if entry is not None:
            assert not known or entry.parent == parent, "the sealed prefix is no chain"
            parent = entry.digest
        known = entry is not None


def _appenders(state: State) -> None:
    """A block with an appender is unsealed and in that sequence's table, and no sharer has written past its fill."""
    owners = {s.uid: s for session in state.sessions.all() for s in session.sequences.values()}
    appended = np.flatnonzero(state.appender != NO_APPENDER).tolist()
    place = {uid: {block: i for i, block in enumerate(s.held.tolist(), s.behind)} for uid, s in owners.items()}
    for block in appended:
        owner = owners[int(state.appender[block])]
        assert block in place[owner.uid], "an appender without the block"
        assert not state.pool.sealed[block], "an appender of a sealed block"
        index = place[owner.uid][block]
        for other in owners.values():
            if place[other.uid].get(block) == index:
                assert min(other.fill, (index + 1) * state.block_size) <= owner.fill, "a sharer past the appender"


def _offers(state: State) -> None:
    """An offer and its frozen sequence name each other, and both sessions can still act."""
    frozen = {s.offer: s for session in state.sessions.all() for s in session.sequences.values() if s.offer}
    assert set(frozen) == set(state.offers), "offers and frozen sequences"
    for made in state.offers.values():
        assert made.source.sequences[made.number] is frozen[made.id], "an offer of another sequence"
        assert state.sessions.get(made.source.id) is made.source, "an offer without its source"
        assert state.sessions.get(made.target.id) is made.target, "an offer without its target"
        assert READY == made.source.state == made.target.state, "an offer of or to a session that cannot act"
        assert not frozen[made.id].copies, "an offered sequence owes copies"


def _index(state: State) -> None:
    """Only sealed blocks are named; each parent is the root, indexed, or a publication (which may be gone)."""
    sealed = {entry.block for entry in state.index.entries()}
    assert sealed == set(np.flatnonzero(state.pool.sealed).tolist()), "indexed blocks are the sealed ones"
    for entry in state.index.entries():
        assert state.index.of_block(entry.block) is entry, "both directions of the index"
        if entry.anchor is not None:
            assert entry.anchor, "anchored at no publication"
        elif entry.parent != ROOT_PARENT:
            assert state.index.find(entry.parent) is not None, "a child outlived its parent"


def _accounts(state: State) -> None:
    """One account a block, counts as counted anew, limits kept, promises that can be kept, contents that are known."""
    sequences = Counter(s.account for session in state.sessions.all() for s in session.sequences.values())
    charges, quotas, states = state.charges, state.quotas, state.pool.states()
    assert ((charges.owner == NO_APPENDER) == (states == FREE)).all(), "each block that is not free has one account"
    assert charges.quarantined == np.count_nonzero(states == QUARANTINED), "blocks in quarantine"
    for number in range(len(state.accounts)):
        own = charges.owner == number
        assert charges.held[number] == np.count_nonzero(own & (states == HELD)), "held blocks of an account"
        assert charges.cached[number] == np.count_nonzero(own & (states == CACHED)), "cached blocks of an account"
        assert charges.charged(number) <= quotas.limit[number], "an account above its limit"
        assert (charges.groups[own] == charges.group_of[number]).all(), "a block outside its account's eviction group"
        assert state.accounts[number].sequences == sequences[number], "sequences of an account"
    if promised := int(quotas.guarantee.sum()):
        assert promised + quotas.pin_budget + quotas.quarantine_reserve <= state.pool.size, "promises beyond the pool"
    _contents(state)


def _contents(state: State) -> None:
    """A block that a sequence may write holds no other account's bytes, unless it still has to scrub it."""
    mixed = set(np.flatnonzero(state.scrub_map.account == MIXED).tolist())
    for session in state.sessions.all():
        for sequence in session.sequences.values():
            assert set(sequence.scrubs.tolist()) <= mixed & set(sequence.held.tolist()), "a scrub of a known block"
            own = sequence.held[state.appender[sequence.held] == sequence.uid]
            foreign = own[state.scrub_map.account[own] != sequence.account]
            assert set(foreign.tolist()) <= set(sequence.scrubs.tolist()), "foreign content without a scrub"


def _claims(state: State) -> None:
    """What is claimed is not there yet; a holder is a live sequence or successor; waiters hold nothing."""
    live = {session.id: session for session in state.sessions.all() if session.state != FENCED}
    waiting: set[tuple[bytes, int]] = set()
    for claim in state.claims.all():
        assert claim.holder[0] in live, "a claim of a session that is gone"
        keys = [key for key in claim.keys if state.claims.of_key(key) is claim]
        assert keys, "a claim on nothing"
        assert not any(state.index.find(key) for key in keys), "a sealed block is claimed"
        for holder, waiter in claim.waiters.items():
            assert holder[0] in live, "a waiter of a session that is gone"
            assert holder[1] not in live[holder[0]].sequences, "a waiter with a table"
            assert claim.keys[waiter.end - 1] in keys, "waiting for what is there"
            assert claim.priority <= waiter.priority, "a priority not inherited"
        waiting.update(claim.waiters)
    assert len(waiting) == state.claims.waits, "waits counted"
    assert not waiting & {claim.holder for claim in state.claims.all()}, "a holder that waits"
