"""Publishing: what publish, unpublish and changes of groups do to the store. All of it costs O(publications).

Unpublishing ends new matches at once and gives the publication's pins back. Sequences that share its blocks keep
them until they end. Blocks that were sealed behind it keep their names: a digest names all tokens from the first on,
so what they hold stays true; no request reaches them, unless the same prompt is published again, until they are
evicted.
"""

from __future__ import annotations

from quire_kvstore.sharing.claims import publication_key
from quire_kvstore.sharing.groups import FIRST_GENERATION
from quire_kvstore.sharing.publications import PublishedPrompt
from quire_kvstore.state import State


def pin_shortage(state: State, identity: str, count: int) -> int:
    """Blocks by which a publication of ``count`` tokens, instead of the present one of its id, breaks the budget."""
    publications = state.publications
    old = publications.get(identity)
    pinned = publications.blocks(state.block_size) - (state.blocks_for(old.count) if old else 0)
    budget = state.pool.size if publications.budget is None else publications.budget
    return max(0, pinned + state.blocks_for(count) - budget)


def publish(state: State, identity: str, domain: str, packed: bytes) -> PublishedPrompt:
    """Enter a checked prompt; an earlier one under its id is unpublished."""
    old = state.publications.get(identity)
    if old is not None:
        unpublish(state, old)
    state.publications.changed()
    return state.publications.add(identity, domain, packed, live=True)


def unpublish(state: State, published: PublishedPrompt) -> None:
    """No new matches; its pins are given back, from the tail on. What waits for it has to ask again."""
    state.publications.remove(published)
    state.claims.sealed([publication_key(published.id, published.edition)])
    if published.table is not None:
        state.pool.release(published.table[::-1])
        if state.index.journal is not None:
            state.index.journal.unpublished((published.id, published.edition))


def join(state: State, tenant: str, group: str) -> None:
    """A tenant may use a group's publications from now on."""
    state.groups.join(tenant, group)
    state.publications.changed()


def leave(state: State, tenant: str, group: str) -> None:
    """A tenant may use a group's publications no more; they have new generations for all others."""
    state.groups.leave(tenant, group)
    assert state.groups.generation(group) > FIRST_GENERATION, "leaving bumps the generation"
    state.publications.changed(group)
