"""The other half of the naive model: forks, marks, names, releases, offers, fences; comparing it with the store."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire_proto import messages as m
from tests.proofs.model import ROOT, Holder, Model, Row, digests_of

GONE = (1 << 31) - 1  # no block


class FullModel(Model):
    """Every operation. Methods that return a code say what the store must answer."""

    def fork(self, session: bytes, parent: int, child: int, at: int) -> int:
        """A child at a point of a parent."""
        rows = self.holders[session].rows
        row = rows[parent]
        if row.offer or child in rows or not row.behind * self.size <= at <= row.fill:
            return m.CONFLICT
        whole = at // self.size
        new = Row(row.tenant, row.table[: self.need(at)], at, at)
        new.pins = {index: block for index, block in row.pins.items() if index < whole}
        new.behind = row.behind
        count = len(row.publication.tokens) if row.publication else 0
        new.chained = row.chained and at >= count
        if new.chained:
            new.publication, new.private_from, new.anchor = row.publication, row.private_from, row.anchor
            new.names = row.names[:whole]
        rows[child] = new
        return m.OK

    def fill(self, session: bytes, number: int, tokens: int) -> int:
        """An acknowledged fill; the first that covers a publication freezes it."""
        row = self.holders[session].rows.get(number)
        if row is None:
            return m.NO_SUCH
        if row.offer or not row.fill <= tokens <= row.writable:
            return m.CONFLICT
        if tokens > row.fill:
            self.contents.filled(row, row.table[row.fill // self.size : self.need(tokens)])
        row.fill = tokens
        self.promote(row)
        return m.OK

    def promote(self, row: Row) -> None:
        """The first that has computed a publication freezes it: charged to its domain, or not yet if that is full."""
        publication = row.publication
        if publication is None or self.sharing.publications.get(publication.id) is not publication:
            return
        if publication.table is not None or row.fill < len(publication.tokens):
            return
        table = row.table[: self.need(len(publication.tokens))]
        moved = [block for block in table if not self.charged[block].startswith("(")]
        pinned = [block for block in self.active() if self.charged[block].startswith("(")]
        if not moved or len(pinned) + len(moved) <= self.sharing.budget:
            publication.table = table
            self.charged.update(dict.fromkeys(table, publication.account))

    def seal(self, session: bytes, item: m.Seal) -> tuple[int, list[tuple[int, int]]]:
        """Honest digests are sealed; canonical rows name blocks that were there first."""
        row = self.holders[session].rows[item.sequence]
        digests = digests_of(item.digests)
        if row.offer or (item.first + len(digests)) * self.size > row.fill:
            return m.CONFLICT, []
        if item.first > len(row.names) or not row.chained or self.nameless(row, item.first, len(digests)):
            return m.UNPUBLISHED, []
        names, canonical, new = list(row.names), [], {}
        for index, digest in enumerate(digests, item.first):
            if index < row.private_from:
                names[index:] = [b"", *names[index + 1 :]]
                continue
            parent = ROOT if index == 0 else names[index - 1]
            if row.publication and index == row.private_from:
                if row.anchor is None and index:
                    return m.UNPUBLISHED, []
                parent = row.anchor or ROOT
            known = self.index.get(digest)
            if index < len(names):
                assert names[index] == digest, "the machine only seals honest digests"
            names[index:] = [digest, *names[index + 1 :]]
            if known is None:
                new[digest] = (row.table[index], parent)
            elif known[0] != row.table[index]:
                canonical.append((index, known[0]))
        if canonical and self.beyond_limit({block for index, block in canonical if index not in row.pins}):
            return m.NO_SPACE, []
        row.names = names
        self.index.update(new)
        for block, _ in new.values():
            self.writer.pop(block, None)
        for index, block in canonical:
            row.pins.setdefault(index, block)
        return m.OK, canonical

    def nameless(self, row: Row, first: int, count: int) -> bool:
        """Whether a row with a hole has no name, any more, for what a seal builds on."""
        if not row.behind:
            return False
        known = range(first - 1, min(first + count, len(row.names)))
        return first <= row.behind or any(row.canonical(index) not in self.sealed() for index in known)

    def leave(self, session: bytes, number: int, blocks: int) -> int:
        """The first blocks of a table are given back."""
        row = self.holders[session].rows.get(number)
        if row is None:
            return m.NO_SUCH
        published = row.publication
        pending = published is not None and self.sharing.publications.get(published.id) is published
        if pending and published.table is None:
            return m.CONFLICT
        if row.offer or not row.behind <= blocks <= row.fill // self.size:
            return m.CONFLICT
        for block in row.table[row.behind : blocks]:
            if self.writer.get(block) is row:
                del self.writer[block]
        row.table[:blocks] = [GONE] * blocks
        row.pins = {index: block for index, block in row.pins.items() if index >= blocks}
        row.behind = blocks
        return m.OK

    def beyond_limit(self, pins: set[int]) -> bool:
        """Whether some account would hold more than its limit if these blocks were pinned."""
        held = self.counts(list(pins)).held
        return any(held[account] > self.promises.limit(account) for account in held)

    def swap(self, session: bytes, number: int, index: int, block: int) -> int:
        """The canonical block into the table."""
        row = self.holders[session].rows[number]
        if row.offer:
            return m.CONFLICT
        if row.table[index] == block:
            return m.OK
        if row.pins.get(index) != block:
            return m.CONFLICT
        if self.writer.get(row.table[index]) is row:
            del self.writer[row.table[index]]
        row.table[index] = row.pins.pop(index)
        return m.OK

    def copied(self, session: bytes, copy_id: int) -> int:
        """A copy is acknowledged."""
        for row in self.holders[session].rows.values():
            if row.copies.pop(copy_id, None) is not None:
                return m.OK
        return m.NO_SUCH

    def free(self, session: bytes, number: int) -> int:
        """A sequence is given up."""
        row = self.holders[session].rows.pop(number, None)
        if row is None:
            return m.NO_SUCH
        self.offers.pop(row.offer, None)
        self.forget(row)
        return m.OK

    def forget(self, row: Row) -> None:
        """A row is no more: no block has it as its writer."""
        self.writer = {block: writer for block, writer in self.writer.items() if writer is not row}

    # --- sessions and offers --------------------------------------------------------------------------------------

    def gone(self, session: bytes) -> int:
        """A process is dead or said goodbye; returns the references that come back."""
        self.thaw(session)
        rows = self.holders.pop(session).rows.values()
        for row in rows:
            self.forget(row)
        return sum(len(row.references()) for row in rows)

    def judge(self, now: int) -> None:
        """Leases that passed: a session that holds something is fenced, the others are gone."""
        for session, holder in list(self.holders.items()):
            if holder.fenced or holder.lease_until > now:
                continue
            self.thaw(session)
            if holder.rows:
                holder.fenced = True
            else:
                del self.holders[session]

    def offered(self, session: bytes, number: int, name: bytes, target: bytes, until: int) -> None:
        """An offer was made."""
        row = self.holders[session].rows[number]
        row.offer = name
        self.contents.filled(row, row.table)  # a quiesced sequence was scrubbed
        self.offers[name] = (session, number, target, until)

    def adopted(self, name: bytes, number: int) -> Row:
        """An offer was taken."""
        source, old, target, _ = self.offers.pop(name)
        row = self.holders[target].rows[number] = self.holders[source].rows.pop(old)
        row.offer = b""
        return row

    def thaw(self, session: bytes | None = None, now: int = -1) -> None:
        """Offers from or to a session end, or those whose time has come."""
        for name, (source, number, target, until) in list(self.offers.items()):
            if session in (source, target) or until <= now:
                del self.offers[name]
                row = self.holders[source].rows.get(number)
                if row is not None and row.offer == name:
                    row.offer = b""

    # --- comparing ------------------------------------------------------------------------------------------------

    def compare(self, store: Any) -> None:
        """Everything the model knows is so in the store, and nothing else is."""
        state, refs = store.state, self.refs()
        pool = state.pool
        assert {s.id for s in state.sessions.all()} == set(self.holders), "sessions"
        for session, holder in self.holders.items():
            self._compare_session(state.sessions.get(session), holder)
        assert pool.refs.tolist() == [refs[block] for block in range(self.blocks)], "reference counts"
        index = {e.digest: (e.block, e.parent) for e in state.index.entries()}
        assert {d: b for d, (b, _) in index.items()} == {d: b for d, (b, _) in self.index.items()}, "the index"
        unused = set(range(self.blocks)) - set(refs)
        assert set(pool.free_ids().tolist()) == unused - self.sealed(), "free blocks"
        assert set(pool.cached_ids()) == unused & self.sealed(), "cached blocks"
        assert pool.counts()["quarantined"] == len(set(refs) - self.active()), "quarantine"
        writers = {b: row for b, row in self.writer.items() if b in refs}
        assert set(np.flatnonzero(state.appender >= 0).tolist()) == set(writers), "appenders"
        used = set(refs) | self.sealed()
        names = {b: state.accounts[int(state.charges.owner[b])].name for b in used}
        assert names == {b: self.charged[b] for b in used}, "each block has its one account"
        self.sharing.compare(state)
        self.promises.compare(state)

    def _compare_session(self, session: Any, holder: Holder) -> None:
        assert (session.state == "fenced") == holder.fenced
        assert set(session.sequences) == set(holder.rows)
        for number, row in holder.rows.items():
            sequence = session.sequences[number]
            assert sequence.table.tolist() == row.table, "tables"
            marks = (sequence.fill, sequence.writable, sequence.sealed, sequence.offer)
            assert marks == (row.fill, row.writable, len(row.names), row.offer), "marks"
            assert (sequence.pins, sequence.behind) == (row.pins, row.behind), "pins, and what is left behind"
            assert {i: c.src for i, c in sequence.copies.items()} == row.copies, "copies"
