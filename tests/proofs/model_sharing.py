"""The naive model of sharing: which prompts are published, which tenant is in which group, and what it may name.

A list of publications and a set of pairs. A publication is known by being that object: one that was published again
under its id is another. What an engine may name is asked anew at each request, from the words of the design: a
publication is there or it is not, its generation is the present one or it is not, and its domain is the tenant's to use
or it is not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32

PUBLIC = "public"


@dataclass(eq=False)
class ModelPublication:
    """One publication. ``key``: what its claim is called; ``table``: its blocks once it is ready."""

    id: str
    domain: str
    tokens: list[int]
    generation: int
    key: bytes
    live: bool = False
    table: list[int] | None = None

    @property
    def account(self) -> str:
        """The account that its blocks are charged to."""
        return f"({self.domain})"


class Sharing:
    """Publications and members. ``generation``: of the list, as the store last said; ``left``: departures by group."""

    def __init__(self, size: int, budget: int, configured: dict[str, list[int]]) -> None:
        self.size, self.budget = size, budget
        self.publications: dict[str, ModelPublication] = {}
        self.members: set[tuple[str, str]] = set()
        self.left: Counter[str] = Counter()
        self.generation = 1
        self._made = 0
        for name, tokens in configured.items():
            self.enter(name, PUBLIC, tokens, 1, live=False)

    def restarted(self) -> None:
        """Another kvstore has read the declarations: prompts, members and key generations, and nothing else."""
        self.generation = 1
        for publication in self.publications.values():
            publication.generation, publication.table = 1, None

    def enter(self, name: str, domain: str, tokens: list[int], generation: int, live: bool = True) -> None:
        """A publication that nothing has computed yet."""
        self._made += 1
        key = f"publication {name} {self._made}".encode()
        self.publications[name] = ModelPublication(name, domain, tokens, generation, key, live)

    def blocks(self, tokens: int) -> int:
        """Blocks of so many tokens."""
        return -(-tokens // self.size)

    def pinned(self, but: str = "") -> int:
        """Blocks that all publications but one may come to pin."""
        return sum(self.blocks(len(p.tokens)) for p in self.publications.values() if p.id != but)

    def present(self, name: str, generation: int) -> ModelPublication | None:
        """What a name and a generation mean now."""
        publication = self.publications.get(name)
        return publication if publication is not None and publication.generation == generation else None

    def entitled(self, tenant: str, domain: str) -> bool:
        """Whether a tenant may use a domain."""
        return domain == PUBLIC or (domain, tenant) in self.members

    def refusal(self, item: m.Allocate) -> int:
        """What speaks against an allocate, as far as publications go."""
        publication = self.present(item.publication, item.publication_generation)
        if (item.publication and publication is None) or item.list_generation not in (0, self.generation):
            return m.RETRY
        if publication is not None and item.tokens < len(publication.tokens):
            return m.CONFLICT
        if not item.tenant:
            ready = publication is None or publication.table is not None
            return m.CONFLICT if ready or item.digests or item.tokens != len(publication.tokens) else m.OK
        return m.OK if publication is None or self.entitled(item.tenant, publication.domain) else m.RETRY

    def tables(self) -> list[list[int]]:
        """The pins of all ready publications."""
        return [p.table for p in self.publications.values() if p.table is not None]

    def compare(self, state: Any) -> None:
        """The store has the same declarations, and pins the same blocks."""
        real = {
            p.id: (p.domain, p.packed, p.generation, None if p.table is None else p.table.tolist())
            for p in state.publications.all()
        }
        mine = {p.id: (p.domain, pack_u32(p.tokens), p.generation, p.table) for p in self.publications.values()}
        assert real == mine, "publications"
        assert state.publications.generation == self.generation, "the list moves with its changes, and only with them"
        assert set(state.groups.members()) == self.members, "members of groups"
        for group, _ in self.members:
            assert state.groups.generation(group) == 1 + self.left[group], "a key for the members that are left"
