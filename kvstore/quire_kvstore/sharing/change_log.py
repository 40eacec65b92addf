"""Journal: what became of the names in the prefix index since it was read last. The event stream is made of it.

Owns the changes that were not read yet. Invariants:

- what a reader knew, changed by what it reads, is the prefix index and the ready publications of that moment;
- changes are kept by name, and a name that came and went again between two readings leaves nothing: however long
  it is not read, the journal is no larger than the pool and what the reader knows of it;
- of ``stored``, a parent comes before its children.

The store only enters; it costs a dict entry a block. Nothing is encoded or sent here: ``publisher`` reads from the
thread that owns the store, and does the rest on its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

Edition = tuple[str, int]  # id of a published prompt, and which of that id it is


@dataclass(frozen=True, slots=True)
class Stored:
    """A name that leads to a block. ``parent``: digest before it (``digests.ROOT_PARENT`` for the first of a chain).

    ``anchor``: the publication that is its parent instead, or None. ``tokens``: the block's, packed u32, if the engine
    named them.
    """

    digest: bytes
    parent: bytes
    anchor: Edition | None
    tenant: str
    tokens: bytes


@dataclass(frozen=True, slots=True)
class ReadyPrompt:
    """A publication that is ready; ``generation`` is that of its domain's key."""

    id: str
    domain: str
    generation: int
    packed: bytes


@dataclass(slots=True)
class Changes:
    """What happened, to be applied in the order of the fields.

    ``anchored``: names that have a publication as their parent now, and its id.
    """

    removed: dict[bytes, None] = field(default_factory=dict)
    unpublished: dict[Edition, None] = field(default_factory=dict)
    published: dict[Edition, ReadyPrompt] = field(default_factory=dict)
    stored: dict[bytes, Stored] = field(default_factory=dict)
    anchored: dict[bytes, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.removed or self.unpublished or self.published or self.stored or self.anchored)


class Journal:
    """Changes that wait to be read."""

    def __init__(self) -> None:
        self._changes = Changes()

    def __bool__(self) -> bool:
        return bool(self._changes)

    def drain(self) -> Changes:
        """All changes since the last call; they are the caller's from now on."""
        changes, self._changes = self._changes, Changes()
        return changes

    def stored(self, names: Iterable[Stored]) -> None:
        """Blocks were indexed, parents first."""
        self._changes.stored.update((name.digest, name) for name in names)

    def anchored(self, digest: bytes, publication: str) -> None:
        """An indexed block has a publication as its parent now."""
        self._changes.anchored[digest] = publication

    def removed(self, digest: bytes) -> None:
        """A name leads nowhere any more."""
        self._changes.anchored.pop(digest, None)
        if self._changes.stored.pop(digest, None) is None:
            self._changes.removed[digest] = None

    def published(self, edition: Edition, prompt: ReadyPrompt) -> None:
        """A publication is ready."""
        self._changes.published[edition] = prompt

    def unpublished(self, edition: Edition) -> None:
        """A ready publication is gone."""
        if self._changes.published.pop(edition, None) is None:
            self._changes.unpublished[edition] = None
