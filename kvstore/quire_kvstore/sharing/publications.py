"""Publications: prompts put into a share domain on purpose, and their frozen sequences.

    pending --a sequence that names it has computed all its tokens--> ready --unpublished--> gone

A ready publication holds a *publication sequence*: the blocks of exactly its tokens, the unfull tail included,
pinned until it is unpublished and never written again. Requests share it by forking it. There are no partial hits:
a publication is matched whole or not at all, so timing tells nothing but what was declared shared.

A published prompt has a generation of its own, which no other one of its id has had in this boot: a request that names
an earlier one must match again. The list has one too, which moves with every change, so that clients see that theirs is
old. What is pinned stays within a budget, counted as if every publication were ready.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire_kvstore.blocks.ids import Ids
from quire_proto.messages import Publication
from quire_proto.wire.publication_ids import is_publication_id, prompt_id
from quire_proto.wire.u32 import pack_u32

from .groups import FIRST_GENERATION, PUBLIC, is_group

MAX_VARIANTS = 16  # of one prompt
PROMPT_PENDING, PROMPT_READY = "pending", "ready"


@dataclass(slots=True, eq=False)
class PublishedPrompt:
    """A prompt that was put into a share domain.

    Attributes:
        edition: the list's generation when it was entered: no two published prompts of an id have the same.
        live: published while a kvstore ran, not by the configuration.
        table: the publication sequence's block table once it is ready.
    """

    id: str
    domain: str
    packed: bytes
    generation: int
    edition: int
    live: bool = False
    table: Ids | None = None

    @property
    def count(self) -> int:
        """Its length in tokens."""
        return len(self.packed) // 4

    @property
    def state(self) -> str:
        """``pending`` or ``ready``."""
        return PROMPT_PENDING if self.table is None else PROMPT_READY

    def message(self) -> Publication:
        """It, as it travels."""
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
        self._prompts: dict[str, PublishedPrompt] = {}

    def add(self, identity: str, domain: str, tokens: list[int] | bytes, *, live: bool = False) -> PublishedPrompt:
        """Enter a publication under the list's present generation; raises ValueError for one that cannot be."""
        packed = tokens if isinstance(tokens, bytes) else pack_u32(tokens)
        if domain != PUBLIC and not is_group(domain):
            raise ValueError(f"publication {identity!r}: {domain!r} is no share domain")
        if not packed or len(packed) % 4:
            raise ValueError(f"publication {identity!r} has no tokens")
        if not is_publication_id(identity) or identity in self._prompts:
            raise ValueError(f"publication {identity!r}: ids are unique names of 1 to 64 letters, digits or ._-")
        published = self._prompts[identity] = PublishedPrompt(
            identity, domain, packed, self.generation, self.generation, live
        )
        return published

    def remove(self, published: PublishedPrompt) -> None:
        """Forget a publication; the list is another one from now on."""
        del self._prompts[published.id]
        self.changed()

    def changed(self, domain: str | None = None) -> None:
        """The list is another one from now on; publications of ``domain`` have another generation, too."""
        self.generation += 1
        for published in self._prompts.values():
            if published.domain == domain:
                published.generation = self.generation

    def get(self, identity: str) -> PublishedPrompt | None:
        """The published prompt of an id."""
        return self._prompts.get(identity)

    def variants(self, identity: str) -> list[PublishedPrompt]:
        """All that are published of the prompt that this publication is a variant of."""
        return [published for published in self.all() if prompt_id(published.id) == prompt_id(identity)]

    def all(self) -> list[PublishedPrompt]:
        """All of them, in the order entered."""
        return list(self._prompts.values())

    def blocks(self, block_size: int) -> int:
        """Blocks that all publications pin once they are ready."""
        return sum(-(-published.count // block_size) for published in self._prompts.values())

    def messages(self) -> tuple[Publication, ...]:
        """All of them, as they travel."""
        return tuple(published.message() for published in self._prompts.values())
