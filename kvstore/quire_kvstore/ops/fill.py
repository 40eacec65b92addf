"""Fill: a session says how far the tokens of a sequence are written; and a publication's first copy freezes it."""

from __future__ import annotations

from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.change_log import ReadyPrompt
from quire_kvstore.sharing.claims import publication_key
from quire_kvstore.state import State
from quire_proto.messages import CONFLICT, NO_SUCH, OK


def fill(state: State, session: Session, number: int, tokens: int) -> int:
    """Acknowledge that the first ``tokens`` tokens are written; returns an item code."""
    sequence = session.sequences.get(number)
    return NO_SUCH if sequence is None else fill_sequence(state, sequence, tokens)


def fill_sequence(state: State, sequence: Sequence, tokens: int) -> int:
    """The same for a sequence that was found."""
    if sequence.offer or not sequence.fill <= tokens <= sequence.writable:
        return CONFLICT
    if tokens > sequence.fill:  # else nothing new is written: a copy's target may still hold what it held
        state.counters.computed_tokens += tokens - sequence.fill
        if len(sequence.scrubs):
            written = sequence.table[sequence.fill // state.block_size : state.blocks_for(tokens)]
            state.scrub_map.filled(sequence, written)
        sequence.fill = tokens
    if sequence.publication:
        promote(state, sequence)
    return OK


def promote(state: State, sequence: Sequence) -> None:
    """Fork the frozen publication sequence off the first sequence that has computed all of it."""
    published = state.publications.get(sequence.publication)
    if published is None or published.edition != sequence.publication_edition:
        return  # it was unpublished, or is another prompt by now
    if published.table is None and sequence.fill >= published.count and not sequence.behind:
        table = sequence.table[: state.blocks_for(published.count)].copy()
        if state.accounts.publish(table, state.accounts.of_domain(published.domain)):
            published.table = table
            state.pool.retain(table)
            state.claims.sealed([publication_key(published.id, published.edition)])
            if state.index.journal is not None:
                generation = state.groups.generation(published.domain)
                prompt = ReadyPrompt(published.id, published.domain, generation, published.packed)
                state.index.journal.published((published.id, published.edition), prompt)
