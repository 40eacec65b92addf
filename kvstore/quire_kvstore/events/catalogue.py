"""Catalogue: what was announced to the subscribers of the event stream, and so what to announce next.

Owns a copy of the names in the prefix index, on the publisher's thread: readings of the ``journal`` go in, events of
the KV-events format (PROTOCOL.md section 16) come out, and a subscriber that missed too much gets all of it.

    journal --Changes--> Catalogue --events--> publisher          Catalogue --everything--> a replay from too far back

Invariants:
- a name is announced once when it comes and once when it goes, parent before child;
- a publication is named by the chain of its domain's key, each name announced while at least one ready publication has
  it;
- ``extra_keys`` name a domain where a chain enters it, and nowhere else: at the first block of a chain, and at the
  first private block behind a publication. The public domain has no name;
- tokens are announced as far as the setting says, and no further.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from quire_kvstore.sharing.change_log import Changes, Edition, ReadyPrompt, Stored
from quire_kvstore.sharing.groups import PUBLIC
from quire_proto.wire.digests import ROOT_PARENT, chain, domain_key, split
from quire_proto.wire.u32 import unpack_u32

NO_TOKENS, ALL_TOKENS = "none", "all"
TOKENS = (NO_TOKENS, PUBLIC, ALL_TOKENS)
INT_HASHES, BYTE_HASHES = "int", "bytes"
HASHES = (INT_HASHES, BYTE_HASHES)
# Routers read it as the tier that an engine computes in, and count blocks of any other as far away. Engines compute in
# the pool itself, wherever it lies.
COMPUTED_IN = "GPU"
MAX_RUN = 256  # blocks in an event: what is encoded in one go, while the store's thread waits for the interpreter

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """How blocks are announced.

    Attributes:
        block_size: tokens in a block.
        adapter: the layout's, "" for none.
        tokens: whose token ids are announced, one of ``TOKENS``.
        hashes: how a name is written, one of ``HASHES``.
        root_key: what names publications.
        named: whether ``extra_keys`` are announced.
    """

    block_size: int
    adapter: str
    tokens: str
    hashes: str
    root_key: bytes
    named: bool = True

    def name(self, digest: bytes) -> int | bytes:
        """A digest as it is written: whole, or its last 8 bytes as a big-endian number."""
        return digest if self.hashes == BYTE_HASHES else int.from_bytes(digest[-8:], "big")

    def digests(self, prompt: ReadyPrompt) -> list[bytes]:
        """The names of a publication's full blocks."""
        key = domain_key(self.root_key, f"group:{prompt.domain}", prompt.generation)
        return split(chain(key, prompt.packed, self.block_size))


@dataclass(frozen=True, slots=True)
class _Announced:
    """One block: its parent's name, its domain ("" for the public one) and whether the chain enters that here, and
    its tokens if they are announced."""

    parent: bytes | None
    domain: str
    enters: bool
    tokens: bytes


class Catalogue:
    """All names that were announced and not taken back."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._announced: dict[bytes, _Announced] = {}
        self._sharing: Counter[bytes] = Counter()  # ready publications by the name of a block
        self._chains: dict[Edition, list[bytes]] = {}
        self._of_id: dict[str, Edition] = {}

    def __len__(self) -> int:
        return len(self._announced)

    def apply(self, changes: Changes) -> Iterator[Event]:
        """What to tell after a reading of the journal."""
        # A client may seal under a publication's name, if it makes it up: that changes no announcement.
        gone = [
            digest
            for digest in changes.removed
            if digest not in self._sharing and self._announced.pop(digest, None) is not None
        ]
        for edition in changes.unpublished:
            gone += self._unpublish(edition)
        yield from self._removals(gone)
        new: dict[bytes, None] = {}
        for edition, prompt in changes.published.items():
            new |= dict.fromkeys(self._publish(edition, prompt))
        for stored in changes.stored.values():
            if stored.digest in self._sharing:
                continue
            self._announced[stored.digest] = self._of(stored)
            new[stored.digest] = None
        for digest, publication in changes.anchored.items():
            known, present = self._announced.get(digest), self._of_id.get(publication)
            if known is not None and present is not None and digest not in self._sharing:
                # Announced again: a walk of the publication's chain finds it there, too.
                self._announced[digest] = _Announced(self._end(present), known.domain, True, known.tokens)
                new[digest] = None
        yield from self._stores(new)

    def everything(self) -> Iterator[Event]:
        """What to announce to a subscriber that knows nothing, or whose knowledge may be wrong."""
        yield {"type": "AllBlocksCleared"}
        yield from self._stores(self._downwards())

    def _downwards(self) -> Iterator[bytes]:
        """All names, a parent before its children: what was anchored at a publication may be older than that."""
        below: dict[bytes | None, list[bytes]] = {}
        for digest, known in self._announced.items():
            below.setdefault(known.parent if known.parent in self._announced else None, []).append(digest)
        todo = below.pop(None, [])[::-1]
        while todo:
            digest = todo.pop()
            yield digest
            todo += reversed(below.pop(digest, ()))

    def _of(self, stored: Stored) -> _Announced:
        """A tenant's block."""
        parent: bytes | None = None if stored.parent == ROOT_PARENT else stored.parent
        behind = stored.anchor is not None and stored.anchor in self._chains
        if stored.anchor is not None and behind:
            parent = self._end(stored.anchor)
        tokens = stored.tokens if self._form.tokens == ALL_TOKENS else b""
        return _Announced(parent, stored.tenant, behind or parent is None, tokens)

    def _publish(self, edition: Edition, prompt: ReadyPrompt) -> list[bytes]:
        """Enter a publication; returns those of its names that were not announced yet."""
        names = self._chains[edition] = self._form.digests(prompt)
        self._of_id[prompt.id] = edition
        public = prompt.domain == PUBLIC
        tell = self._form.tokens == ALL_TOKENS or (public and self._form.tokens == PUBLIC)
        parent, step, new = None, 4 * self._form.block_size, []
        for index, digest in enumerate(names):
            self._sharing[digest] += 1
            if self._sharing[digest] == 1:
                tokens = prompt.packed[index * step : (index + 1) * step] if tell else b""
                self._announced[digest] = _Announced(parent, "" if public else f"({prompt.domain})", index == 0, tokens)
                new.append(digest)
            parent = digest
        return new

    def _unpublish(self, edition: Edition) -> list[bytes]:
        """Forget a publication; returns the names that no other has, the tail first."""
        gone = []
        for digest in reversed(self._chains.pop(edition)):
            self._sharing[digest] -= 1
            if not self._sharing[digest]:
                del self._sharing[digest], self._announced[digest]
                gone.append(digest)
        self._of_id = {identity: other for identity, other in self._of_id.items() if other != edition}
        return gone

    def _end(self, edition: Edition) -> bytes | None:
        """The name of a publication's last full block, None if it has none."""
        names = self._chains[edition]
        return names[-1] if names else None

    def _removals(self, gone: list[bytes]) -> Iterator[Event]:
        for start in range(0, len(gone), MAX_RUN):
            names = [self._form.name(digest) for digest in gone[start : start + MAX_RUN]]
            yield {"type": "BlockRemoved", "block_hashes": names, "medium": COMPUTED_IN}

    def _stores(self, digests: Iterable[bytes]) -> Iterator[Event]:
        """One event a run of blocks that follow each other."""
        run: list[bytes] = []
        for digest in digests:
            known = self._announced[digest]
            follows = run and known.parent == run[-1] and bool(known.tokens) == bool(self._announced[run[-1]].tokens)
            if run and (not follows or len(run) == MAX_RUN):
                yield self._stored(run)
                run = []
            run.append(digest)
        if run:
            yield self._stored(run)

    def _stored(self, run: list[bytes]) -> Event:
        known = [self._announced[digest] for digest in run]
        parent = known[0].parent
        event: Event = {
            "type": "BlockStored",
            "block_hashes": [self._form.name(digest) for digest in run],
            "parent_block_hash": None if parent is None else self._form.name(parent),
            "token_ids": unpack_u32(b"".join(block.tokens for block in known)).tolist(),
            "block_size": self._form.block_size,
            "lora_id": None,
            "medium": COMPUTED_IN,
            "lora_name": self._form.adapter or None,
        }
        keys = [[block.domain] if block.enters and block.domain else None for block in known]
        if self._form.named and any(keys):
            event["extra_keys"] = keys
        return event
