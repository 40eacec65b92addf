"""Growing a sequence: allocate and extend, with copy-on-write.

Both take everything or nothing: space is counted first, and a reply of "no space" leaves the store as it was. An
unfull block that the sequence may not write in place is replaced by a new one and a copy is asked for; the source
stays pinned until the session acknowledges the copy (or frees the sequence), because the copy runs on the
engine's stream, after this reply.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np

from quire_kvstore.blocks.pool import Ids
from quire_kvstore.sessions.scrub import owed
from quire_kvstore.sessions.sequence import Copy, Sequence
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.claims import publication_key
from quire_kvstore.sharing.publications import READY, Record
from quire_kvstore.state import State
from quire_kvstore.tenants.accounts import is_tenant
from quire_proto.messages import CONFLICT, NO_SPACE, NO_SUCH, OK, RETRY, Allocate, Allocated, Extend, Extended
from quire_proto.packed import U32_MAX, pack

from .admission import Shortage, make_room, shortage

MAX_SEQUENCES = 1 << 16
NOTHING: Ids = np.empty(0, np.int64)
Reply = TypeVar("Reply", Allocated, Extended)


@dataclass(slots=True)
class Match:
    """What an allocate may share: ``blocks`` for ``computed`` tokens, the last one partly if they end inside it."""

    blocks: Ids
    computed: int


@dataclass(frozen=True, slots=True)
class Begun:
    """An allocate that has its hit.

    Attributes:
        sequence: in its session's ledger. Its table is ``match.blocks`` and what it got of the rest.
        lacks: how many blocks it needs besides.
        published: how many tokens of the hit were published, at most.
    """

    sequence: Sequence
    match: Match
    lacks: int
    published: int


def in_use(state: State, session: Session, number: int) -> bool:
    """Whether a number names a sequence, or one that waits or inherited a claim: only its own allocate may give it a
    table."""
    return number in session.sequences or state.claims.knows((session.id, number))


def packed(blocks: Ids) -> bytes:
    """Block ids as little-endian u32."""
    return blocks.astype("<u4").tobytes()


def begin(
    state: State, session: Session, item: Allocate, record: Record | None, digests: list[bytes], hit: list[int]
) -> Begun | Allocated:
    """Give a new sequence its longest sealed prefix, and promise it the rest; or an answer, and no change.

    ``digests``: those of ``item``, one by one. ``hit``: the indexed run of them, from the publication's end on. The
    blocks that it lacks are for ``staging`` to put into its table.
    """
    code = refusal(state, session, item, record)
    if code != OK:
        return Allocated(code)
    match = _match(state, item, record, hit)
    whole, tail = divmod(match.computed, state.block_size)
    own, account = state.blocks_for(max(item.tokens, item.reserve)) - whole, _account(state, item, record)
    short = shortage(state, account, own, match.blocks)
    if short is not None and tail:
        # Holding the source of the copy may be the block too much: what is begun in it is computed instead.
        match, tail = Match(match.blocks[:whole], whole * state.block_size), 0
        short = shortage(state, account, own, match.blocks)
    if short is not None:
        return no_space(state, Allocated, short)

    if record is None:
        state.pool.policy.arrived(digests, len(match.blocks))
    state.pool.retain(match.blocks)
    if record is not None and whole > record.count // state.block_size:
        # The hit went on past the publication. It does not go away, so it is the parent of this block from now on, even
        # if the block was first sealed above a private chain: one that making room for the rest may evict.
        state.anchor(int(match.blocks[record.count // state.block_size]), record.id)
    sequence = state.new_sequence(account, match.blocks)
    sequence.sealed, sequence.prompt = whole, item.tokens
    sequence.fill = sequence.writable = whole * state.block_size
    if record is not None:
        _anchor(state, sequence, record, digests)
    session.sequences[item.sequence] = sequence
    return Begun(sequence, match, own, 0 if record is None or record.state != READY else record.count)


def complete(state: State, session: Session, item: Allocate, begun: Begun) -> Allocated:
    """The sequence has all blocks that it lacked: it may be written."""
    sequence, match = begun.sequence, begun.match
    whole, tail = divmod(match.computed, state.block_size)
    fresh = np.sort(sequence.table[len(match.blocks) :])
    sequence.table = np.concatenate((match.blocks[:whole], fresh))
    sequence.fill = sequence.matched = match.computed
    sequence.writable = len(sequence.table) * state.block_size
    copies = b""
    if tail:
        copies = _copy(state, session, item.sequence, sequence, int(match.blocks[whole]), int(fresh[0]), tail)
    _count(state, item, begun)
    return Allocated(
        OK, computed=match.computed, blocks=packed(sequence.table), copies=copies, scrub=owed(sequence, fresh)
    )


def no_space(state: State, reply: type[Reply], short: Shortage) -> Reply:
    """The answer to a request that cannot have its blocks."""
    state.counters.no_space += 1
    return reply(NO_SPACE, **asdict(short))


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
    short = shortage(state, sequence.account, count, sequence.table)
    if short is not None:
        return no_space(state, Extended, short)

    state.counters.extends += 1
    first, copies = have, b""
    make_room(state, sequence.account, count)
    if shared is not None:
        assert shared == have - 1, "whoever must copy has nothing past the block to be copied"
        first = shared
        fresh = state.take(count, sequence)
        src, slots = int(sequence.table[first]), sequence.fill % state.block_size
        copies = _copy(state, session, item.sequence, sequence, src, int(fresh[0]), slots)
    else:
        fresh = state.take(count, sequence)
        _become_appender(state, sequence)
    sequence.table = np.concatenate((sequence.table[:first], fresh))
    sequence.writable = want * state.block_size
    return Extended(OK, first=first, blocks=packed(fresh), copies=copies, scrub=owed(sequence, fresh))


def refusal(state: State, session: Session, item: Allocate, record: Record | None) -> int:
    """Why this allocate can never be served as it is: an item code, OK if nothing speaks against it."""
    if item.sequence > U32_MAX or item.sequence in session.sequences or len(session.sequences) >= MAX_SEQUENCES:
        return CONFLICT
    if item.tokens < 1 or item.priority > U32_MAX or (item.tenant and not is_tenant(item.tenant)):
        return CONFLICT
    if len(item.digests) // 32 > item.tokens // state.block_size:
        return CONFLICT
    if item.publication and (record is None or item.publication_generation != record.generation):
        return RETRY
    if item.list_generation not in (0, state.publications.generation):
        return RETRY  # what was published since may suit it better
    if record is not None and item.tokens < record.count:
        return CONFLICT
    if not item.tenant:
        return _prefill_refusal(state, session, item, record)
    if record is not None and not state.groups.entitled(item.tenant, record.domain):
        return RETRY  # as if it were not there
    return OK


def _prefill_refusal(state: State, session: Session, item: Allocate, record: Record | None) -> int:
    """Without a tenant: exactly a pending publication, which nobody else claims."""
    if record is None or record.table is not None or item.tokens != record.count or item.digests:
        return CONFLICT
    claim = state.claims.of_others(publication_key(record.id, record.made), (session.id, item.sequence))
    return OK if claim is None else CONFLICT


def _account(state: State, item: Allocate, record: Record | None) -> int:
    if item.tenant:
        return state.accounts.number(item.tenant)
    assert record is not None, "without a tenant it is a publication's prefill"
    return state.accounts.of_domain(record.domain)


def _match(state: State, item: Allocate, record: Record | None, hit: list[int]) -> Match:
    """The longest computed prefix. One token at least is left to compute: its logits are what the request wants.

    If that token is the last of a sealed block, the block is shared as a publication's tail is: by a copy.
    """
    table, computed = NOTHING, 0
    if record is not None:
        if record.table is None:
            return Match(NOTHING, 0)
        start = record.count // state.block_size
        table, computed = (record.table[:start], 0) if hit else (record.table, record.count)
    table = np.concatenate((table, np.array(hit, np.int64)))
    computed = min(computed or len(table) * state.block_size, item.tokens - 1)
    return Match(table[: state.blocks_for(computed)], computed)


def _anchor(state: State, sequence: Sequence, record: Record, digests: list[bytes]) -> None:
    sequence.publication, sequence.publication_made = record.id, record.made
    sequence.published = record.count
    sequence.private_from = start = record.count // state.block_size
    if 0 < start <= len(digests):
        sequence.anchor = digests[start - 1]


def _count(state: State, item: Allocate, begun: Begun) -> None:
    counters, sequence = state.counters, begun.sequence
    account = state.accounts[sequence.account]
    counters.allocates += 1
    counters.prompt_tokens += item.tokens
    counters.hit_tokens += sequence.fill
    counters.publication_tokens += min(begun.published, sequence.fill)
    account.prompt_tokens += item.tokens
    account.cached_tokens += sequence.fill


def _shared_tail(state: State, sequence: Sequence) -> int | None:
    """Table index of the unfull block that must be copied before it is written, or None."""
    if sequence.fill % state.block_size == 0:
        return None
    index = sequence.fill // state.block_size
    block = int(sequence.table[index])
    if int(state.appender[block]) == sequence.uid:
        return None
    # A block that nobody is known to have scrubbed stays what it is: to scrub it now would wipe what was copied to it.
    known = int(state.content.account[block]) == sequence.account
    sole_survivor = known and int(state.pool.refs[block]) == 1 and not bool(state.pool.sealed[block])
    return None if sole_survivor else index


def _become_appender(state: State, sequence: Sequence) -> None:
    """A sole survivor takes over its unfull block; for an appender this changes nothing."""
    if sequence.fill % state.block_size:
        state.appender[sequence.table[sequence.fill // state.block_size]] = sequence.uid


def _copy(state: State, session: Session, number: int, sequence: Sequence, src: int, dst: int, slots: int) -> bytes:
    """Ask for a copy; the reference that the table had on ``src`` becomes the copy's pin."""
    copy_id = session.next_copy
    while copy_id in session.copies:
        copy_id = copy_id % U32_MAX + 1
    session.next_copy = copy_id % U32_MAX + 1
    session.copies[copy_id] = number
    sequence.copies[copy_id] = Copy(src, dst, slots)
    state.counters.copies += 1
    return pack((copy_id, src, dst, slots))
