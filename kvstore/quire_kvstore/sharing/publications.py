"""Publications: prompts put into a share domain on purpose, and their frozen sequences.

    pending --a sequence that names it has computed all its tokens--> ready --unpublished--> gone

A ready publication holds a *publication sequence*: the blocks of exactly its tokens, the unfull tail included,
pinned until it is unpublished and written by nobody. Requests share it by forking it. There are no partial hits:
a publication is matched whole or not at all, so timing tells nothing but what was declared shared.

A record has a generation of its own, which no other record under its id has had in this boot: a request that names
an earlier one is told to match again. The list has one too, which moves with every change, so that clients see that
theirs is old. What is pinned stays within a budget, counted as if every publication were ready.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire_kvstore.blocks.ids import Ids
from quire_proto.messages import Publication
from quire_proto.wire.u32 import pack_u32

from .groups import FIRST_GENERATION, PUBLIC, is_group, is_name

PENDING, READY = "pending", "ready"


@dataclass(slots=True, eq=False)
class Record:
    """One publication.

    Attributes:
        made: the list's generation when the record was entered: no two records of an id have the same.
        live: published while a kvstore ran, not by the configuration.
        table: the publication sequence's block table once it is ready.
    """

    id: str
    domain: str
    packed: bytes
    generation: int
    made: int
    live: bool = False
    table: Ids | None = None

    @property
    def count(self) -> int:
        """Its length in tokens."""
        return len(self.packed) // 4

    @property
    def state(self) -> str:
        """``pending`` or ``ready``."""
        return PENDING if self.table is None else READY

    def message(self) -> Publication:
        """The record as it travels."""
        return Publication(self.id, self.generation, self.domain, self.packed, self.state)


class PublicationList:
    """All publications by id.

    Attributes:
        generation: of the list.
        budget: blocks that publications may pin; None: as many as there are.
    """

    def __init__(self) -> None:
        self.generation = FIRST_GENERATION
        self.budget: int | None = None
        self._records: dict[str, Record] = {}

    def add(self, identity: str, domain: str, tokens: list[int] | bytes, *, live: bool = False) -> Record:
        """Enter a publication under the list's present generation; raises ValueError for one that cannot be."""
        packed = tokens if isinstance(tokens, bytes) else pack_u32(tokens)
        if domain != PUBLIC and not is_group(domain):
            raise ValueError(f"publication {identity!r}: {domain!r} is no share domain")
        if not packed or len(packed) % 4:
            raise ValueError(f"publication {identity!r} has no tokens")
        if not is_name(identity) or identity in self._records:
            raise ValueError(f"publication {identity!r}: ids are unique names of 1 to 64 letters, digits or ._-")
        record = self._records[identity] = Record(identity, domain, packed, self.generation, self.generation, live)
        return record

    def remove(self, record: Record) -> None:
        """Forget a publication; the list is another one from now on."""
        del self._records[record.id]
        self.changed()

    def changed(self, domain: str | None = None) -> None:
        """The list is another one from now on; records of ``domain`` have another generation, too."""
        self.generation += 1
        for record in self._records.values():
            if record.domain == domain:
                record.generation = self.generation

    def get(self, identity: str) -> Record | None:
        """The record of an id."""
        return self._records.get(identity)

    def all(self) -> list[Record]:
        """All records in the order entered."""
        return list(self._records.values())

    def blocks(self, block_size: int) -> int:
        """Blocks that all publications pin once they are ready."""
        return sum(-(-record.count // block_size) for record in self._records.values())

    def messages(self) -> tuple[Publication, ...]:
        """All records as they travel."""
        return tuple(record.message() for record in self._records.values())
