"""Admission: whether an account can have more blocks, why not, and whose cache makes way.

Two steps of one grant: ``shortage`` says no before anything changed, or promises that ``make_space`` will find the
blocks. Without quotas that is the pool's free and cached blocks, and the policy's order. With quotas (``quotas``):

- an account never exceeds its limit: its own cache goes first, and what it holds is refused beyond;
- within its guarantee it gets what is there, but for the cache that others' guarantees protect;
- beyond it, it leaves alone whatever is missing of others' guarantees, of publications still to be computed,
  and of the quarantine's reserve. So a guarantee can be claimed at any time, not only kept.

A refusal names the scope and the account it holds for, and how long it makes sense to wait; 0 ms means that the request
alone is more than its account can have beside what is permanent (``permanent``) and what others are guaranteed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np

from quire_kvstore.blocks.ids import Ids
from quire_kvstore.state import State
from quire_proto.messages import NO_SPACE, Allocated, Extended

POOL, LIMIT, GUARANTEES = "pool", "limit", "guarantees"
RETRY_AFTER_MS = 20
LIMIT_RETRY_AFTER_MS = 1000  # a tenant's own requests must end first


Reply = TypeVar("Reply", Allocated, Extended)


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why there is no space: fields of the reply."""

    missing: int
    scope: str
    account: str
    retry_after_ms: int


def shortage(state: State, account: int, count: int, shared: Ids) -> Shortage | None:
    """Why ``account`` cannot have ``count`` more blocks once ``shared`` are held, or None if it can."""
    if not state.quotas.active:
        missing = count - state.pool.available(shared)
        if missing <= 0:
            return None
        return Shortage(missing, POOL, "", 0 if _never(state, account, count, shared) else RETRY_AFTER_MS)
    quotas, held, cached, quarantined = state.quotas, *_once_held(state, shared)
    name = state.accounts[account].name
    over = int(held[account]) + count - int(quotas.limit[account])
    if over > 0:
        return Shortage(over, LIMIT, name, 0 if _never(state, account, count, shared) else LIMIT_RETRY_AFTER_MS)
    there = state.pool.size - int(held.sum()) - quarantined
    within = int(held[account]) + count <= int(quotas.guarantee[account])
    missing = count - there + _kept_from(state, account, within, held, cached, quarantined)
    if missing <= 0:
        return None
    # Beyond a guarantee it is this account's shortage, even of a full pool: what others give up is not for it.
    # A share domain's is that of all: its publications wait for the same blocks.
    confined = not within and bool(quotas.guarantee.any()) and not state.accounts[account].is_domain
    scope, whose = (GUARANTEES, name) if confined else (POOL, "")
    return Shortage(missing, scope, whose, 0 if _never(state, account, count, shared) else RETRY_AFTER_MS)


def no_space(state: State, reply: type[Reply], short: Shortage) -> Reply:
    """The answer to a request that cannot have its blocks."""
    state.counters.no_space += 1
    return reply(NO_SPACE, **asdict(short))


def _never(state: State, account: int, count: int, shared: Ids) -> bool:
    """Whether ``count`` blocks besides ``shared`` are more than the account can have, even when all others ended."""
    quotas, permanent = state.quotas, state.permanent
    permanent.look(state.publications, state.sessions)
    promised = int(quotas.guarantee.sum()) - int(quotas.guarantee[account])
    promised += max(0, _reserve(state, account) - permanent.quarantined)
    left = state.pool.size - len(permanent.blocks) - promised - permanent.besides(shared)
    charged = int(np.count_nonzero(state.charges.owner[shared] == account))
    return count > min(int(quotas.limit[account]) - charged, left)


def to_evict(state: State, account: int, count: int) -> int:
    """How many blocks :meth:`make_space` will evict."""
    short = count - state.pool.free
    if state.quotas.active:
        short = max(short, state.charges.charged(account) + count - int(state.quotas.limit[account]))
    return max(short, 0)


def make_space(state: State, account: int, count: int) -> None:
    """Evict until ``count`` blocks are free and the account may be charged for them."""
    if not state.quotas.active:
        if count > state.pool.free:
            evict(state, count - state.pool.free, 0)
        return
    trim(state, account, count)
    while (short := count - state.pool.free) > 0:
        before = state.pool.free
        for group, share in state.quotas.shares(state.charges, short):
            # What hung below another group's victim went with it: a block behind a publication's frozen tail.
            there = min(share, state.charges.cached_in(group), count - state.pool.free)
            evict(state, max(there, 0), group)
        if state.pool.free == before:
            evict(state, short, int(state.charges.group_of[account]))  # only its own protected cache is left
        assert state.pool.free > before, "space was promised that is not there"


def trim(state: State, account: int, more: int = 0) -> None:
    """Evict cache of an account until ``more`` blocks would not exceed its limit."""
    over = state.charges.charged(account) + more - int(state.quotas.limit[account])
    if over > 0:
        evict(state, over, int(state.charges.group_of[account]))


def trim_all(state: State) -> None:
    """After blocks came back from the quarantine: no account's cache may exceed its limit."""
    if state.quotas.active:
        charges, limit = state.charges, state.quotas.limit
        for account in np.flatnonzero(charges.held + charges.cached > limit).tolist():
            trim(state, account)


def evict(state: State, count: int, group: int) -> None:
    """Evict ``count`` cached blocks of a group, and whatever hangs below them."""
    unnamed = state.index.remove(state.pool.victims(count, group))
    state.pool.unseal(np.array(unnamed, np.int64))
    state.counters.evictions += len(unnamed)


def _once_held(state: State, shared: Ids) -> tuple[Ids, Ids, int]:
    """Held and cached blocks by account, and the quarantine, as they will be when ``shared`` are held."""
    pool, charges = state.pool, state.charges
    held, cached = charges.held.copy(), charges.cached.copy()
    refs = pool.refs[shared]
    again = shared[refs == pool.quarantined_refs[shared]]
    resting = again[pool.refs[again] == 0]
    np.add.at(held, charges.owner[again], 1)
    np.subtract.at(cached, charges.owner[resting], 1)
    return held, cached, charges.quarantined - (len(again) - len(resting))


def _kept_from(state: State, account: int, within: bool, held: Ids, cached: Ids, quarantined: int) -> int:
    """Blocks that are not held and yet not for this account: other guarantees, and reserves."""
    if within:
        kept = state.quotas.protected(held, cached)
        return int(kept.sum()) - int(kept[account])
    missing = np.maximum(state.quotas.guarantee - held, 0)
    return int(missing.sum()) - int(missing[account]) + max(0, _reserve(state, account) - quarantined)


def _reserve(state: State, account: int) -> int:
    """Blocks kept for the quarantine and for publications not computed yet; none where nothing is guaranteed."""
    if not state.quotas.guarantee.any():
        return 0
    if state.accounts[account].is_domain:
        return state.quotas.quarantine_reserve  # it is the one that publications are kept for
    pending = sum(
        state.blocks_for(published.count) for published in state.publications.all() if published.table is None
    )
    return state.quotas.quarantine_reserve + pending
