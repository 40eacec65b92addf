"""A naive model of the store: what each reply must say, and what must be where afterwards.

Written for obviousness: tables are lists, reference counts are recounted from all tables at each question,
the index is a dictionary, prefixes are found by walking. It shares no code with the store. Which free block is
taken and which cached one is evicted is the store's choice; the model checks that the choice was allowed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from quire_proto import messages as m
from quire_proto.wire.u32 import unpack_rows, unpack_u32
from tests.proofs.model_contents import Contents
from tests.proofs.model_quotas import Counts, Promises
from tests.proofs.model_sharing import ModelPublication, Sharing

ROOT = bytes(32)


@dataclass(eq=False)
class Row:
    """One sequence. ``names``: digests of its sealed blocks, ``b""`` where a publication stands for them."""

    tenant: str
    table: list[int]
    fill: int
    writable: int
    names: list[bytes] = field(default_factory=list)
    pins: dict[int, int] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    publication: ModelPublication | None = None
    private_from: int = 0
    anchor: bytes | None = None
    chained: bool = True
    behind: int = 0
    offer: bytes = b""
    scrubs: set[int] = field(default_factory=set)

    def canonical(self, index: int) -> int:
        """The indexed block of a table index."""
        return self.pins.get(index, self.table[index])

    def references(self) -> list[int]:
        """Every reference it holds."""
        return [*self.table[self.behind :], *self.pins.values(), *self.copies.values()]


@dataclass(eq=False)
class Holder:
    """One session and its rows."""

    lease_until: int
    fenced: bool = False
    rows: dict[int, Row] = field(default_factory=dict)


def digests_of(packed: bytes) -> list[bytes]:
    """Concatenated digests as a list."""
    return [packed[i : i + 32] for i in range(0, len(packed), 32)]


class Model:
    """All sessions, the index and the publications. ``charged``: by block that is not free, whose account has it."""

    def __init__(self, size: int, sharing: Sharing, promises: Promises) -> None:
        self.blocks, self.size, self.sharing, self.promises = promises.size, size, sharing, promises
        self.contents = Contents()
        self.holders: dict[bytes, Holder] = {}
        self.index: dict[bytes, tuple[int, bytes]] = {}  # digest -> block, digest of its parent
        self.writer: dict[int, Row] = {}
        self.charged: dict[int, str] = {}
        self.offers: dict[bytes, tuple[bytes, int, bytes, int]] = {}  # name -> source, its number, target, until

    # --- counting, from scratch -----------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """All sequences."""
        return [row for holder in self.holders.values() for row in holder.rows.values()]

    def refs(self) -> Counter[int]:
        """References of each block."""
        held = Counter(block for row in self.rows() for block in row.references())
        held.update(block for table in self.sharing.tables() for block in table)
        return held

    def active(self) -> set[int]:
        """Blocks that a publication holds, or a session that is not fenced."""
        held = {b for h in self.holders.values() if not h.fenced for row in h.rows.values() for b in row.references()}
        return held | {block for table in self.sharing.tables() for block in table}

    def counts(self, hit: list[int]) -> Counts:
        """What each account has once ``hit`` is held."""
        refs, active, sealed = set(self.refs()) | set(hit), self.active() | set(hit), self.sealed()
        pending = sum(self.need(len(p.tokens)) for p in self.sharing.publications.values() if p.table is None)
        held = Counter(self.charged[block] for block in active)
        return Counts(held, Counter(self.charged[block] for block in sealed - refs), len(refs - active), pending)

    def short(self, account: str, count: int, hit: list[int]) -> tuple[int, str]:
        """Blocks missing for ``count`` more beside ``hit``, and in what scope; (0, "") if there is room."""
        if self.promises.quotas:
            return self.promises.short(account, count, self.counts(hit))
        missing = count - (self.blocks - len(set(self.refs()) | set(hit)))
        return (missing, "pool") if missing > 0 else (0, "")

    def sealed(self) -> set[int]:
        """Blocks that the index names."""
        return {block for block, _ in self.index.values()}

    def need(self, tokens: int) -> int:
        """Blocks for so many tokens."""
        return -(-tokens // self.size)

    # --- allocate, extend -----------------------------------------------------------------------------------------

    def match(self, item: m.Allocate) -> tuple[list[int], int]:
        """Blocks that may be shared, and the tokens computed in them."""
        digests = digests_of(item.digests)
        if not item.publication:
            hit = self.walk(digests, 0, ROOT)
            return hit, min(len(hit) * self.size, item.tokens - 1)
        publication = self.sharing.publications[item.publication]
        table, count = publication.table, len(publication.tokens)
        if table is None:
            return [], 0
        start = count // self.size
        parent = digests[start - 1] if 0 < start <= len(digests) else ROOT
        further = self.walk(digests, start, parent) if start < len(digests) else []
        if further:
            return table[:start] + further, min((start + len(further)) * self.size, item.tokens - 1)
        computed = min(count, item.tokens - 1)
        return table[: self.need(computed)], computed

    def walk(self, digests: list[bytes], start: int, parent: bytes) -> list[int]:
        """The indexed run from ``start`` on that hangs on ``parent``."""
        hit: list[int] = []
        for digest in digests[start:]:
            entry = self.index.get(digest)
            if entry is None or entry[1] != parent:
                break
            hit.append(entry[0])
            parent = digest
        return hit

    def allocated(self, session: bytes, item: m.Allocate, reply: m.Allocated, store: Any) -> None:
        """An allocate was answered."""
        rows, refused = self.holders[session].rows, self.refusal(session, item)
        if refused != m.OK:
            assert reply == m.Allocated(refused), "what may not be had"
            return
        hit, computed = self.match(item)
        whole, tail = divmod(computed, self.size)
        own = self.need(max(item.tokens, item.reserve)) - whole
        account = item.tenant or self.sharing.publications[item.publication].account
        missing, scope = self.short(account, own, hit)
        if tail and missing:  # then the block that would be copied is computed
            hit, computed, tail = hit[:whole], whole * self.size, 0
            missing, scope = self.short(account, own, hit)
        if missing:
            self.refused(reply, missing, scope, account)
            return
        assert (reply.code, reply.computed) == (m.OK, computed), "the longest indexed prefix, as a plain loop finds it"
        table = list(unpack_u32(reply.blocks))
        assert table[:whole] == hit[:whole], "the shared blocks are those of the prefix"
        row = Row(account, table, computed, len(table) * self.size, digests_of(item.digests)[:whole])
        self.take(row, table[whole:], own, hit, store)
        self.contents.granted(row, table[whole:], unpack_u32(reply.scrub).tolist())
        self.owe(row, reply.copies, (hit[whole], table[whole], tail) if tail else None)
        if item.publication:
            self.anchor(row, item, whole)
        rows[item.sequence] = row

    def refused(self, reply: m.Allocated | m.Extended, missing: int, scope: str, account: str) -> None:
        """There is no space: what is missing where, and for which account if it is not missing for all."""
        said = (reply.code, reply.missing, reply.scope, reply.account, reply.blocks)
        assert said == (m.NO_SPACE, missing, scope, "" if scope == "pool" else account, b"")

    def refusal(self, session: bytes, item: m.Allocate) -> int:
        """Why an allocate is refused whatever is free."""
        if item.sequence in self.holders[session].rows or len(item.digests) // 32 > item.tokens // self.size:
            return m.CONFLICT
        return self.sharing.refusal(item)

    def anchor(self, row: Row, item: m.Allocate, whole: int) -> None:
        """The row begins with a publication."""
        row.publication = self.sharing.publications[item.publication]
        row.private_from = start = len(row.publication.tokens) // self.size
        digests = digests_of(item.digests)
        row.anchor = digests[start - 1] if 0 < start <= len(digests) else None
        row.names = [b""] * min(start, whole) + row.names[start:]

    def extended(self, session: bytes, item: m.Extend, reply: m.Extended, store: Any) -> None:
        """An extend was answered."""
        row = self.holders[session].rows[item.sequence]
        have, refs = len(row.table), self.refs()
        if row.offer:
            assert reply == m.Extended(m.CONFLICT)
            return
        if item.tokens <= row.writable:
            assert reply == m.Extended(m.OK, first=have)
            return
        last = row.fill // self.size
        shared = False
        if row.fill % self.size and self.writer.get(row.table[last]) is not row:
            block = row.table[last]
            shared = refs[block] > 1 or block in self.sealed() or self.contents.foreign(block, row.tenant)
        want = max(self.need(item.tokens), have)
        need = want - have + shared
        missing, scope = self.short(row.tenant, need, [])
        if missing:
            self.refused(reply, missing, scope, row.tenant)
            return
        fresh = list(unpack_u32(reply.blocks))
        assert (reply.code, reply.first) == (m.OK, have - shared)
        if row.fill % self.size and not shared:
            self.writer[row.table[last]] = row
        self.take(row, fresh, need, [], store)
        self.contents.granted(row, fresh, unpack_u32(reply.scrub).tolist())
        self.owe(row, reply.copies, (row.table[last], fresh[0], row.fill % self.size) if shared else None)
        row.table[reply.first :] = fresh
        row.writable = want * self.size

    def take(self, row: Row, fresh: list[int], count: int, hit: list[int], store: Any) -> None:
        """Blocks given: as many as asked, none in use, and cached ones evicted only where free ones were short."""
        busy, now = set(self.refs()) | set(hit), self.counts(hit)
        assert len(fresh) == len(set(fresh)) == count, "as many blocks as asked for"
        assert not busy & set(fresh), "a block that a sequence holds was given away"
        short = count - (self.blocks - len(busy | self.sealed()))
        over = now.held[row.tenant] + now.cached[row.tenant] + count - self.promises.limit(row.tenant)
        lost, dragged = self.evicted(busy, store)
        assert not lost or max(short, over) > 0, "evicted without need"
        for account in lost:
            guaranteed = 0 if account == row.tenant else self.promises.protected(account, now)
            kept = now.cached[account] - lost[account] + dragged[account]
            assert kept >= guaranteed, "guaranteed cache was evicted"
        if over <= 0 and not dragged:
            self.promises.fair(now, lost)
        assert not self.sealed() & set(fresh), "a block was given away and is still a hit"
        for block in fresh:
            self.writer[block] = row
            self.charged[block] = row.tenant

    def evicted(self, busy: set[int], store: Any) -> tuple[Counter[str], Counter[str]]:
        """Names that the store has dropped; returns how many cached blocks each account lost by that, and how many of
        these because what they hung below was another account's: the tail of a publication that is no more."""
        gone = {digest for digest in self.index if store.state.index.find(digest) is None}
        for digest in gone:
            block, parent = self.index[digest]
            assert block not in busy or parent in gone, "a block in use was evicted"
        dropped = {digest: self.index.pop(digest) for digest in gone}
        blocks = {block for block, _ in dropped.values()} - busy
        behind = {block for block, parent in dropped.values() if self.behind_another(block, parent, dropped)} - busy
        return Counter(map(self.charged.__getitem__, blocks)), Counter(map(self.charged.__getitem__, behind))

    def behind_another(self, block: int, parent: bytes, dropped: dict[bytes, tuple[int, bytes]]) -> bool:
        """Whether some block that ``block`` hung below went too and was charged to another account."""
        while parent in dropped:
            above, parent = dropped[parent]
            if self.charged[above] != self.charged[block]:
                return True
        return False

    def trimmed(self, store: Any) -> None:
        """What may be evicted though no blocks were asked for: cache of an account above its limit."""
        now = self.counts([])
        for account, lost in self.evicted(set(self.refs()), store)[0].items():
            over = now.held[account] + now.cached[account] - self.promises.limit(account)
            assert lost >= over > 0, "evicted without need"

    def owe(self, row: Row, packed: bytes, expected: tuple[int, int, int] | None) -> None:
        """Copies asked for are those expected; their sources stay pinned."""
        copies = list(unpack_rows(packed, 4))
        assert [tuple(copy[1:]) for copy in copies] == ([] if expected is None else [expected])
        for copy_id, src, _, _ in copies:
            row.copies[copy_id] = src
