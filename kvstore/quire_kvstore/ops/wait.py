"""Wait: be told when another sequence has computed what this one lacks, holding nothing meanwhile."""

from __future__ import annotations

from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.claims import SEALED, YOURS, Ticket, publication_key
from quire_kvstore.state import State
from quire_proto.messages import Wait


def wait(state: State, session: Session, item: Wait, ticket: Ticket, until_ms: int) -> str | None:
    """``sealed`` or ``yours`` if that can be said at once, else None: the answer will be in ``claims.answers``."""
    published = state.publications.get(item.publication) if item.publication else None
    if item.publication:
        if published is None or published.generation != item.publication_generation:
            return YOURS  # it is another prompt by now: the allocate will say so
        if published.table is not None:
            return SEALED
    elif state.index.find(item.digest) is not None:
        return SEALED
    key = item.digest if published is None else publication_key(published.id, published.edition)
    if not state.claims.wait((session.id, item.sequence), key, ticket, item.priority, until_ms):
        return YOURS
    state.counters.waits += 1
    return None
