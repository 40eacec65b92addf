"""Publications: prompts put into a share domain on purpose, and their frozen sequences.

    pending --a sequence that names it has computed all its tokens--> ready

A ready publication holds a *publication sequence*: the blocks of exactly its tokens, the unfull tail included,
pinned for the life of the store and written by nobody. Requests share it by forking it. There are no partial hits:
a publication is matched whole or not at all, so timing tells nothing but what was declared shared.

Version 1 serves the domain ``public`` only; the list is fixed at start, so its generation never moves.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire_proto.messages import Publication
from quire_proto.packed import pack

from .pool import Ids

PENDING, READY = "pending", "ready"
PUBLIC = "public"
GENERATION = 1


@dataclass(slots=True, eq=False)
class Record:
    """One publication. ``table`` is the publication sequence's block table once it is ready."""

    id: str
    domain: str
    packed: bytes
    count: int
    table: Ids | None = None

    @property
    def state(self) -> str:
        """``pending`` or ``ready``."""
        return PENDING if self.table is None else READY

    def message(self) -> Publication:
        """The record as it travels."""
        return Publication(self.id, GENERATION, self.domain, self.packed, self.state)


class PublicationList:
    """All publications by id."""

    generation = GENERATION

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def add(self, identity: str, domain: str, tokens: list[int]) -> None:
        """Enter a publication; raises ValueError for a domain or record that cannot be served."""
        if domain != PUBLIC:
            raise ValueError(f"publication {identity!r}: domain {domain!r} is not served, only {PUBLIC!r}")
        if not tokens:
            raise ValueError(f"publication {identity!r} has no tokens")
        if not identity or identity in self._records:
            raise ValueError(f"publication {identity!r}: ids are unique and not empty")
        self._records[identity] = Record(identity, domain, pack(tokens), len(tokens))

    def get(self, identity: str) -> Record | None:
        """The record of an id."""
        return self._records.get(identity)

    def all(self) -> list[Record]:
        """All records in the order configured."""
        return list(self._records.values())

    def blocks(self, block_size: int) -> int:
        """Blocks that all publications pin once they are ready."""
        return sum(-(-record.count // block_size) for record in self._records.values())

    def messages(self) -> tuple[Publication, ...]:
        """All records as they travel."""
        return tuple(record.message() for record in self._records.values())
