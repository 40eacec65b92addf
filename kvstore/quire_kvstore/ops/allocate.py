"""Allocate: a block table for a new sequence, and what it lacks is computed once.

    refuse -> look up -> computed elsewhere? -> admit -> claim -> fill the table, in slices -> answer

All or nothing: space is counted before anything changes, and whatever is answered but OK leaves the store as it was. A
sequence that gets its table claims every block it must compute. One that may wait, and whose first missing block
another sequence is computing, gets nothing and hears so (``CLAIMED``): it waits, holding nothing, and asks again. One
that may not wait computes a second copy; its seals then name the canonical blocks.

Digests are keyed by tenant, so a claim can only ever be met by requests that may use its blocks. A pending publication
is one key of its own, met by all that may name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from quire_kvstore.blocks.charges import NO_ACCOUNT
from quire_kvstore.blocks.ids import NO_BLOCKS, Ids
from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import MAX_SEQUENCES, Session
from quire_kvstore.sharing.claims import Claim, Holder, publication_key
from quire_kvstore.sharing.publications import PublishedPrompt
from quire_kvstore.state import State
from quire_kvstore.tenants.accounts import is_tenant
from quire_kvstore.tenants.quotas import UNLIMITED
from quire_proto.messages import CLAIMED, CONFLICT, OK, RETRY, Allocate, Allocated
from quire_proto.wire.digests import DIGEST_BYTES, split
from quire_proto.wire.u32 import U32_MAX

from .admission import Shortage, make_space, no_space, shortage, to_evict
from .copies import ask_copy
from .free import release
from .slices import Pace, Slices, Work


@dataclass(slots=True)
class _Prompt:
    """What is there of a prompt, and what is not.

    Attributes:
        digests: of its full blocks, one by one.
        hit: the indexed run of them, from the publication's end on.
        present: how many leading blocks need not be computed.
        missing: keys of what must be computed, in order.
        pending: whether the first of these keys is a publication that is not computed yet: no digest.
    """

    digests: list[bytes]
    hit: list[int]
    present: int
    missing: list[bytes]
    pending: bool


@dataclass(slots=True)
class _Grant:
    """A sequence that has its hit and is promised the rest.

    Attributes:
        sequence: in its session's ledger. Its table is ``shared`` and what it got of the rest.
        shared: blocks for ``computed`` tokens, the last one partly if they end inside it.
        lacks: how many blocks it needs besides.
        published_tokens: how many tokens of the hit were published, at most.
    """

    sequence: Sequence
    shared: Ids
    computed: int
    lacks: int
    published_tokens: int


def allocate(state: State, session: Session, item: Allocate, pace: Pace | None = None) -> Slices[Allocated]:
    """A table; or a refusal, what another sequence is computing for this one, or no space.

    ``pace`` is that of the request that it is an item of; None: it is the request.
    """
    pace = pace or Pace(state)
    holder = (session.id, item.sequence)
    published = state.publications.get(item.publication) if item.publication else None
    code = refusal(state, session, item, published)
    if code != OK:
        return _without(state, session, item, Allocated(code))
    prompt = _look_up(state, item, published)
    claim = _computed_elsewhere(state, holder, item, prompt)
    if claim is not None:
        return _without(state, session, item, _claimed(state, prompt, claim))
    grant = _admit(state, session, item, published, prompt)
    if isinstance(grant, Shortage):
        return _without(state, session, item, no_space(state, Allocated, grant))
    pace.spend(len(prompt.digests), Work.LOOK_UP)
    others = _claim(state, holder, prompt, item.priority)  # before others have their turn
    short = yield from _fill_table(state, grant, pace)
    if short is not None:
        release(state, session, item.sequence)
        return no_space(state, Allocated, short)
    if others is not None:
        others = _claim(state, holder, prompt, item.priority)  # what making space has evicted is to be computed, too
    return _answer(state, session, item, grant, b"".join(others or []))


def _without(state: State, session: Session, item: Allocate, answer: Allocated) -> Allocated:
    """The answer to a request that gets no table: a claim that had passed to it goes on to the next waiter.

    A successor that finds no space must not stop the others.
    """
    if item.sequence not in session.sequences:
        state.claims.leave((session.id, item.sequence))
    return answer


# --- refuse -------------------------------------------------------------------------------------------------------


def refusal(state: State, session: Session, item: Allocate, published: PublishedPrompt | None) -> int:
    """Why this allocate can never be served as it is: an item code, OK if nothing speaks against it."""
    if item.sequence > U32_MAX or item.sequence in session.sequences or len(session.sequences) >= MAX_SEQUENCES:
        return CONFLICT
    if item.tokens < 1 or item.priority > U32_MAX or (item.tenant and not is_tenant(item.tenant)):
        return CONFLICT
    if len(item.digests) // DIGEST_BYTES > item.tokens // state.block_size:
        return CONFLICT
    if item.publication and (published is None or item.publication_generation != published.generation):
        return RETRY
    if item.list_generation not in (0, state.publications.generation):
        return RETRY  # what was published since may suit it better
    if published is not None and item.tokens < published.count:
        return CONFLICT
    if not item.tenant:
        return _prefill_refusal(state, session, item, published)
    if published is not None and not state.groups.entitled(item.tenant, published.domain):
        return RETRY  # as if it were not there
    return OK


def _prefill_refusal(state: State, session: Session, item: Allocate, published: PublishedPrompt | None) -> int:
    """Without a tenant: exactly a pending publication that no other sequence claims."""
    if published is None or published.table is not None or item.tokens != published.count or item.digests:
        return CONFLICT
    claim = state.claims.of_others(publication_key(published.id, published.edition), (session.id, item.sequence))
    return OK if claim is None else CONFLICT


# --- look up ------------------------------------------------------------------------------------------------------


def _look_up(state: State, item: Allocate, published: PublishedPrompt | None) -> _Prompt:
    digests, hit, start, pending = split(item.digests), list[int](), 0, False
    if published is not None:
        start, pending = min(published.count // state.block_size, len(digests)), published.table is None
    # What was sealed behind a publication may be there without the blocks before it: what is lacked begins where the
    # hit ends, and not where a search for the first digest without a block happens to.
    if not pending and start < len(digests):
        hit = state.index.longest(digests, start, len(digests))
        if hit and state.quotas.active and state.charges.quarantined:
            hit = _chargeable(state, item.tenant, hit)
    present = start + len(hit)
    missing = digests[present:]
    if published is not None and pending:
        missing.insert(0, publication_key(published.id, published.edition))
    return _Prompt(digests, hit, present, missing, pending)


def _chargeable(state: State, tenant: str, hit: list[int]) -> list[int]:
    """The leading blocks of a hit that do not wake another tenant's block from the quarantine, against its limit.

    A tenant's own digests lead to its own blocks, and its limit is judged with the rest. Made-up ones lead anywhere.
    """
    blocks, owners, account = np.array(hit, np.int64), state.charges.owner[hit], state.accounts.find(tenant)
    refs = state.pool.refs[blocks]
    asleep = (refs > 0) & (refs == state.pool.quarantined_refs[blocks])
    limited = (owners != (NO_ACCOUNT if account is None else account)) & (state.quotas.limit[owners] < UNLIMITED)
    barred = np.flatnonzero(asleep & limited)
    return hit[: int(barred[0])] if len(barred) else hit


# --- computed elsewhere? ------------------------------------------------------------------------------------------


def _computed_elsewhere(state: State, holder: Holder, item: Allocate, prompt: _Prompt) -> Claim | None:
    """The claim that this sequence may wait for."""
    if not item.may_wait or not prompt.missing:
        return None
    return state.claims.of_others(prompt.missing[0], holder)


def _claimed(state: State, prompt: _Prompt, claim: Claim) -> Allocated:
    """The run of this sequence's keys that ``claim`` holds."""
    state.counters.claimed += 1
    if prompt.pending:
        return Allocated(CLAIMED)
    run = takewhile(lambda key: state.claims.of_key(key) is claim, prompt.missing)
    return Allocated(CLAIMED, computed=prompt.present * state.block_size, claimed=b"".join(run))


# --- admit --------------------------------------------------------------------------------------------------------


def _admit(
    state: State, session: Session, item: Allocate, published: PublishedPrompt | None, prompt: _Prompt
) -> _Grant | Shortage:
    """Give a new sequence its longest sealed prefix, and promise it the rest; or a shortage, and no change."""
    shared, computed = _shared(state, item, published, prompt.hit)
    whole, tail = divmod(computed, state.block_size)
    lacks, account = state.blocks_for(max(item.tokens, item.reserve)) - whole, _account(state, item, published)
    short = shortage(state, account, lacks, shared)
    if short is not None and tail:
        # Holding the source of the copy may be the block too much: what is begun in it is computed instead.
        shared, computed = shared[:whole], whole * state.block_size
        short = shortage(state, account, lacks, shared)
    if short is not None:
        return short

    if published is None:
        state.pool.policy.arrived(prompt.digests, len(shared))
    state.pool.retain(shared)
    sequence = state.new_sequence(account, shared)
    sequence.sealed, sequence.prompt = whole, item.tokens
    sequence.fill = sequence.writable = whole * state.block_size
    session.sequences[item.sequence] = sequence
    if published is not None:
        _anchor(state, sequence, published, prompt.digests)
    published_tokens = 0 if published is None or published.table is None else published.count
    return _Grant(sequence, shared, computed, lacks, published_tokens)


def _account(state: State, item: Allocate, published: PublishedPrompt | None) -> int:
    if item.tenant:
        return state.accounts.number(item.tenant)
    assert published is not None, "without a tenant it is a publication's prefill"
    return state.accounts.of_domain(published.domain)


def _shared(state: State, item: Allocate, published: PublishedPrompt | None, hit: list[int]) -> tuple[Ids, int]:
    """The longest computed prefix. One token at least is left to compute: its logits are what the request wants.

    If that token is the last of a sealed block, the block is shared as a publication's tail is: by a copy.
    """
    table, computed = NO_BLOCKS, 0
    if published is not None:
        if published.table is None:
            return NO_BLOCKS, 0
        start = published.count // state.block_size
        table, computed = (published.table[:start], 0) if hit else (published.table, published.count)
    table = np.concatenate((table, np.array(hit, np.int64)))
    computed = min(computed or len(table) * state.block_size, item.tokens - 1)
    return table[: state.blocks_for(computed)], computed


def _anchor(state: State, sequence: Sequence, published: PublishedPrompt, digests: list[bytes]) -> None:
    """Note where the sequence leaves the publication that its tokens begin with."""
    sequence.publication, sequence.publication_edition = published.id, published.edition
    sequence.published_tokens = published.count
    sequence.private_from = start = published.count // state.block_size
    if 0 < start <= len(digests):
        sequence.anchor = digests[start - 1]
    if sequence.sealed > start:
        # The hit went on past the publication. It does not go away, so it is the parent of this block from now on, even
        # if the block was first sealed above a private chain: one that making space for the rest may evict.
        state.anchor(int(sequence.table[start]), published.id)


# --- claim --------------------------------------------------------------------------------------------------------


def _claim(state: State, holder: Holder, prompt: _Prompt, priority: int) -> list[bytes] | None:
    """Claim what no other sequence does; returns None for all of it, else the digests that others compute."""
    keys = prompt.missing
    if state.claims.untouched(keys) and len(set(keys)) == len(keys) and state.index.lacks(keys):
        state.claims.acquire(holder, keys, priority)
        return None
    others = [key for key in keys[prompt.pending :] if state.claims.of_others(key, holder)]
    state.claims.acquire(holder, _unclaimed(state, keys, holder), priority)
    return others


def _unclaimed(state: State, keys: list[bytes], holder: Holder) -> list[bytes]:
    """The leading keys that this sequence will be the one to compute."""
    mine: dict[bytes, None] = {}
    for key in keys:
        if key in mine or state.claims.of_others(key, holder) or state.index.find(key) is not None:
            break
        mine[key] = None
    return list(mine)


# --- fill the table -----------------------------------------------------------------------------------------------


def _fill_table(state: State, grant: _Grant, pace: Pace) -> Slices[Shortage | None]:
    """Put the blocks that it lacks into its table, one slice of evictions after the other; or why there are none left.

    They are its own from then on: no other sequence can take them, and its session's end gives them back.
    """
    sequence, left = grant.sequence, grant.lacks
    while left:
        if pace.over:
            yield from pace.rest()
            short = shortage(state, sequence.account, left, NO_BLOCKS)
            if short is not None:
                return short
        portion = left - max(to_evict(state, sequence.account, left) - state.slice_blocks, 0)
        pace.spend(to_evict(state, sequence.account, portion), Work.EVICT)
        make_space(state, sequence.account, portion)
        sequence.table = np.concatenate((sequence.table, state.grant(portion, sequence)))
        left -= portion
    return None


# --- answer -------------------------------------------------------------------------------------------------------


def _answer(state: State, session: Session, item: Allocate, grant: _Grant, claimed: bytes) -> Allocated:
    """The sequence has all blocks that it lacked: it may be written."""
    sequence = grant.sequence
    whole, tail = divmod(grant.computed, state.block_size)
    fresh = np.sort(sequence.table[len(grant.shared) :])
    sequence.table = np.concatenate((grant.shared[:whole], fresh))
    sequence.fill = sequence.matched = grant.computed
    sequence.writable = len(sequence.table) * state.block_size
    copies = b""
    if tail:
        source, target = int(grant.shared[whole]), int(fresh[0])
        copies = ask_copy(state, session, item.sequence, sequence, source, target, tail)
    counters, account = state.counters, state.accounts[sequence.account]
    counters.allocates += 1
    counters.prompt_tokens += item.tokens
    counters.hit_tokens += sequence.fill
    counters.publication_tokens += min(grant.published_tokens, sequence.fill)
    account.prompt_tokens += item.tokens
    account.cached_tokens += sequence.fill
    scrub = np.sort(sequence.scrubs).astype("<u4").tobytes()
    return Allocated(OK, grant.computed, sequence.table.astype("<u4").tobytes(), copies, claimed, scrub)
