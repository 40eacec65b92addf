"""Offers: handing a live sequence to another session, without copying and without a moment of two owners.

    own --offer--> frozen --adopt, in one store step--> the target's own
                      \\--source frees, dies or is fenced; target dies or is fenced; expiry--> offer gone

A sequence is the source's until ``adopt`` commits. While it is offered it is *frozen*: fills, seals, swaps, extends
and forks of it are a conflict, so nothing can change between what the source told the target about its tokens and
what the target gets. Freeing it is always possible and takes the offer back. Whatever else ends the offer leaves the
sequence where it was, thawed: no outcome loses it, and none gives it twice.

Invariants: an offer names a sequence in its source's ledger whose ``offer`` is the offer's id; source and target are
ready; an offered sequence is quiesced, it owes no copy.
"""

from __future__ import annotations

from collections.abc import Callable

from quire_kvstore.errors import Refusal
from quire_kvstore.sessions.offer import OpenOffer
from quire_kvstore.sessions.session import MAX_SEQUENCES, READY, Session
from quire_kvstore.state import State
from quire_proto.messages import CONFLICT, NO_SUCH, OK
from quire_proto.messages.handoff import Adopt, Adopted, Offer, Offered
from quire_proto.wire.u32 import U32_MAX

Names = Callable[[], bytes]
_CODES = {"NOT_FOUND": NO_SUCH, "CONFLICT": CONFLICT}
MAX_OFFERS, MAX_OF_A_SESSION = 1 << 12, 1 << 8


def offer(state: State, session: Session, item: Offer, identity: bytes, now_ms: int) -> OpenOffer:
    """Freeze a sequence for a target. Raises Refusal."""
    sequence = session.sequences.get(item.sequence)
    if sequence is None:
        raise Refusal("NOT_FOUND", f"no sequence {item.sequence}")
    if sequence.offer:
        raise Refusal("CONFLICT", f"sequence {item.sequence} is offered already")
    if sequence.copies:
        raise Refusal("CONFLICT", f"sequence {item.sequence} has copies that are not acknowledged")
    target = state.sessions.get(item.target)
    if target is None or target.state != READY or target is session:
        raise Refusal("CONFLICT", "the target is not another ready session")
    own = sum(made.source is session for made in state.offers.values())
    if item.expires_ms < 1 or own >= MAX_OF_A_SESSION or len(state.offers) >= MAX_OFFERS:
        most = f"a session has at most {MAX_OF_A_SESSION} of the {MAX_OFFERS} that there may be"
        raise Refusal("CONFLICT", f"an offer lives at least 1 ms, and {most}")
    made = OpenOffer(identity, session, item.sequence, target, now_ms + item.expires_ms)
    state.offers[identity] = made
    sequence.offer = identity
    state.scrub_map.filled(sequence, sequence.table)  # quiesced: what it had to scrub is scrubbed
    return made


def adopt(state: State, session: Session, identity: bytes, number: int) -> Adopted:
    """Move an offered sequence into the ledger of ``session``, under ``number``. Raises Refusal."""
    made = state.offers.get(identity)
    if made is None or made.target is not session:
        raise Refusal("NOT_FOUND", "no such offer to this session: taken back, expired, or adopted before")
    if number > U32_MAX or state.in_use(session, number) or len(session.sequences) >= MAX_SEQUENCES:
        raise Refusal("CONFLICT", f"sequence {number} cannot be used here")
    sequence = state.close_offer(made)
    del made.source.sequences[made.number]
    session.sequences[number] = sequence
    state.claims.move((made.source.id, made.number), (session.id, number))
    state.counters.adopted += 1
    return Adopted(
        OK,
        tenant=state.accounts[sequence.account].name,
        blocks=sequence.table.astype("<u4").tobytes(),
        fill=sequence.fill,
        capacity=sequence.writable,
        sealed=sequence.sealed,
        behind=sequence.behind,
        publication=sequence.publication,
    )


def offer_each(
    state: State, session: Session, items: tuple[Offer, ...], name: Names, now_ms: int
) -> tuple[Offered, ...]:
    """The same for each of some sequences by itself, with its code."""
    results = []
    for item in items:
        try:
            results.append(Offered(OK, offer(state, session, item, name(), now_ms).id))
        except Refusal as refusal:
            results.append(Offered(_CODES[refusal.code]))
    return tuple(results)


def adopt_each(state: State, session: Session, items: tuple[Adopt, ...]) -> tuple[Adopted, ...]:
    """The same for each of some offers by itself, with its code."""
    results = []
    for item in items:
        try:
            results.append(adopt(state, session, item.offer, item.sequence))
        except Refusal as refusal:
            results.append(Adopted(_CODES[refusal.code]))
    return tuple(results)


def cancel(state: State, session: Session) -> None:
    """The session can neither offer nor adopt any more: end its offers, either way."""
    for made in [made for made in state.offers.values() if session in (made.source, made.target)]:
        state.close_offer(made)


def prolong(state: State, gap_ms: int) -> None:
    """Forgive a gap in our own loop."""
    for made in list(state.offers.values()):
        state.offers[made.id] = OpenOffer(made.id, made.source, made.number, made.target, made.until + gap_ms)
