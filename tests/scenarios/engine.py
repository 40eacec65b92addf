"""An engine of a scenario: it does what replies tell it, in a stamped arena, and must find its own content there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quire_kvstore.sessions.sequence import GIVEN_BACK
from quire_proto import messages as m
from quire_proto.messages.handoff import Adopted
from quire_proto.wire.digests import DIGEST_BYTES, chain, salted
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32
from tests.scenarios.reply_text import codes, reply_text
from tests.scenarios.step_items import Item, extended
from tests.scenarios.words import ScenarioError, Words, tokens, whole
from tests.support.stamped_arena import ForeignBytes, StampedArena


@dataclass(eq=False)
class Branch:
    """What an engine knows of a sequence. ``written``: up to where slots hold its content; ``fill``: acknowledged;
    ``behind``: blocks given back, whose slots it reads no more."""

    tenant: str
    key: bytes
    tokens: list[int]
    table: list[int]
    fill: int
    sealed: int
    written: int = 0
    behind: int = 0
    scrubs: list[int] = field(default_factory=list)
    undone: list[tuple[int, ...]] = field(default_factory=list)
    unacknowledged: list[int] = field(default_factory=list)
    canonical: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.written = self.fill


class Engine:
    """One engine's sequences."""

    def __init__(
        self, name: str, arena: StampedArena, size: int, generation: Callable[[str], int], key: Callable[[str], bytes]
    ) -> None:
        """``size``: tokens a block; ``generation``: of a publication by id; ``key``: for a tenant's digests."""
        self.name, self._arena, self._size = name, arena, size
        self._generation, self._key = generation, key
        self.branches: dict[int, Branch] = {}
        self.claimed: dict[int, bytes] = {}

    def item(self, words: Words) -> Item:
        """The item that a line names."""
        if words.verb not in ITEMS:
            raise ScenarioError(f"what is {words.verb!r}?")
        numbers = [self._number(words.name("a sequence"))]
        if words.verb == "free":
            numbers += [self._number(name) for name in words.rest()]
        return ITEMS[words.verb](self, words, *numbers)

    def adopted(self, number: int, source: Branch, reply: Adopted) -> None:
        """A sequence of another engine is ours."""
        source.table, source.fill = list(unpack_u32(reply.blocks)), reply.fill
        source.sealed, source.behind = reply.sealed, reply.behind
        self.branches[number] = source

    def check(self, tables: dict[int, list[int]]) -> None:
        """Compare with what the kvstore has of our sequences: every slot below a fill mark holds our own content."""
        assert sorted(self.branches) == sorted(tables), f"{self.name} has other sequences than the kvstore knows"
        for number, branch in self.branches.items():
            assert branch.table == tables[number], f"{self.name}/{number} has another table than the kvstore"
            source = {dst: src for _, src, dst, _ in branch.undone}
            table = [source.get(block, block) for block in branch.table]
            try:
                self._arena.read(table, branch.tokens, branch.fill, start=branch.behind * self._size)
            except ForeignBytes as exc:
                raise AssertionError(f"{self.name}/{number}: {exc}") from exc

    def branch(self, number: int) -> Branch:
        """What we know of a sequence; an error if that is nothing."""
        if number not in self.branches:
            raise ScenarioError(f"{self.name}/{number} has no table")
        return self.branches[number]

    def _number(self, name: str) -> int:
        engine, slash, number = name.partition("/")
        if engine != self.name or not slash:
            raise ScenarioError(f"{name!r} is no sequence of {self.name}")
        return whole(number, "a sequence")

    def _free(self, _: Words, *numbers: int) -> Item:
        def told(results: bytes, __: m.Stepped) -> str:
            for number in numbers:
                self.branches.pop(number, None)
            return codes(results)

        return Item("releases", numbers, told, "free")

    def _copied(self, words: Words, number: int) -> Item:
        """All that it did and has not told yet, or ``ids=``."""
        if given := words.option("ids", ""):
            return Item("copies_done", [whole(part, "ids=") for part in given.split(",")], _codes)
        branch = self.branch(number)
        self._copy(branch)
        done, branch.unacknowledged = branch.unacknowledged, []
        return Item("copies_done", done, _codes)

    def _swap(self, words: Words, number: int) -> Item:
        """To the canonical blocks it was told of, or to those of ``rows=INDEX:BLOCK,…``."""
        given = words.option("rows", "")
        if given:
            rows = [tuple(whole(part, "rows=") for part in row.split(":")) for row in given.split(",")]
        else:
            rows, self.branch(number).canonical = self.branch(number).canonical, []

        def told(results: bytes, __: m.Stepped) -> str:
            for (index, block), code in zip(rows, results, strict=True):
                if code == m.OK:
                    self.branch(number).table[index] = block
            return codes(results)

        return Item("swaps", [(number, *row) for row in rows], told)

    def _fill(self, words: Words, number: int) -> Item:
        upto = whole(words.name("a fill mark"), "a fill mark")

        def told(results: bytes, __: m.Stepped) -> str:
            if results == bytes([m.OK]):
                self.branch(number).fill = upto
            return codes(results)

        return Item("fills", [(number, upto)], told)

    def _write(self, words: Words, number: int) -> Item:
        """Owed scrubs and copies first, then the rows; tokens past the known ones are of ``text``."""
        branch, text = self.branch(number), words.option("text", "")
        item = self._fill(words, number)
        upto = item.rows[0][1]
        if upto > len(branch.table) * self._size:
            raise ScenarioError(f"write: the table of {self.name}/{number} ends before {upto} tokens")
        self._copy(branch)
        branch.tokens += tokens(f"{upto}{text}")[len(branch.tokens) :]
        self._arena.write(branch.table, branch.tokens, branch.written, upto)
        branch.written = max(branch.written, upto)
        return item

    def _complete(self, words: Words, number: int) -> Item:
        """As a batch that decodes says it: rows are written up to the end of a block, and that block is sealed."""
        branch, upto = self.branch(number), self._write(words, number).rows[0][1]
        index = upto // self._size - 1
        digest = chain(branch.key, branch.tokens, self._size)[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

        def told(results: bytes, reply: m.Stepped) -> str:
            rows = [row[1:] for row in unpack_rows(reply.canonical, 3) if row[0] == number]
            branch.canonical += rows
            if results[0] in (m.OK, m.UNPUBLISHED):
                branch.fill = upto
            if results[0] == m.OK:
                branch.sealed = index + 1
            return reply_text(m.Sealed(results[0], canonical=pack_u32(value for row in rows for value in row)))

        return Item("completed", [(number, index, upto)], told, digest=digest)

    def _seal(self, words: Words, number: int) -> Item:
        """``first=`` and ``blocks=``: others than those that are written and not sealed; ``tenant=``: its digests."""
        branch, tenant = self.branch(number), words.option("tenant", "")
        first = words.number("first", branch.sealed)
        end = first + words.number("blocks", branch.written // self._size - first)
        key = self._key(tenant) if tenant else branch.key
        digests = chain(key, branch.tokens, self._size)[first * DIGEST_BYTES : end * DIGEST_BYTES]

        def told(results: Sequence[m.Sealed], __: m.Stepped) -> str:
            (reply,) = results
            branch.canonical += unpack_rows(reply.canonical, 2)
            if reply.code == m.OK:
                branch.sealed = max(branch.sealed, end)
            return reply_text(reply)

        return Item("seals", [m.Seal(number, first, digests)], told, "seal")

    def _left_behind(self, words: Words, number: int) -> Item:
        blocks = words.number("blocks")

        def told(results: bytes, __: m.Stepped) -> str:
            branch = self.branch(number)
            if results == bytes([m.OK]):
                branch.behind, branch.table[:blocks] = blocks, [GIVEN_BACK] * blocks
            return codes(results)

        return Item("left_behind", [(number, blocks)], told)

    def _fork(self, words: Words, number: int) -> Item:
        children, at = words.numbers("children"), words.number("tokens")

        def told(results: Sequence[m.Forked], __: m.Stepped) -> str:
            (reply,) = results
            if reply.code == m.OK:
                own = self.branch(number)
                self._copy(own)  # an engine runs copies before anything that reads their target
                for child in children:
                    table = own.table[: math.ceil(at / self._size)]
                    sealed = min(own.sealed, at // self._size)
                    made = Branch(own.tenant, own.key, own.tokens[:at], table, at, sealed, behind=own.behind)
                    self.branches[child] = made
            return reply_text(reply)

        return Item("forks", [m.Fork(number, pack_u32(children), at)], told, "fork")

    def _extend(self, words: Words, number: int) -> Item:
        def told(results: Any, reply: m.Stepped) -> str:
            answer = results[0] if isinstance(results[0], m.Extended) else extended(results[0], number, reply)
            if answer.code == m.OK and answer.blocks:
                branch = self.branch(number)
                branch.table[answer.first :] = unpack_u32(answer.blocks)
                self._owe(branch, answer)
            return reply_text(answer)

        return Item("extends", [(number, words.number("tokens"))], told, "extend")

    def _allocate(self, words: Words, number: int) -> Item:
        tenant, prompt, publication = (
            words.option("tenant"),
            tokens(words.option("tokens")),
            words.option("publication", ""),
        )
        key = salted(self._key(tenant), words.option("salt", ""))
        digests = chain(key, prompt, self._size)
        if count := words.number("digests", 0):  # of the text that all share, however few tokens there are
            digests = chain(key, tokens(str(count * self._size)), self._size)
        item = m.Allocate(
            sequence=number,
            tenant=tenant,
            tokens=len(prompt),
            digests=digests,
            publication=publication,
            publication_generation=words.number("generation", self._generation(publication)),
            reserve=words.number("reserve", 0),
            priority=words.number("priority", 0),
            may_wait=int(words.flag("may_wait")),
        )

        def told(results: Sequence[m.Allocated], __: m.Stepped) -> str:
            (reply,) = results
            self.claimed[number] = (reply.claimed or digests)[-DIGEST_BYTES:]
            if reply.code == m.OK:
                sealed = reply.computed // self._size
                branch = Branch(tenant, key, prompt, list(unpack_u32(reply.blocks)), reply.computed, sealed)
                self._owe(branch, reply)
                self.branches[number] = branch
            return reply_text(reply, digests)

        return Item("allocates", [item], told, "allocate")

    def _owe(self, branch: Branch, reply: m.Allocated | m.Extended) -> None:
        branch.undone += unpack_rows(reply.copies, 4)
        branch.scrubs += unpack_u32(reply.scrub)

    def _copy(self, branch: Branch) -> None:
        for block in branch.scrubs:
            self._arena.scrub(block)
        branch.scrubs.clear()
        for copy, src, dst, slots in branch.undone:
            self._arena.copy(src, dst, slots)
            branch.unacknowledged.append(copy)
        branch.undone.clear()


ITEMS: dict[str, Callable[..., Item]] = {
    "free": Engine._free,
    "copied": Engine._copied,
    "swap": Engine._swap,
    "fill": Engine._fill,
    "write": Engine._write,
    "complete": Engine._complete,
    "seal": Engine._seal,
    "left_behind": Engine._left_behind,
    "fork": Engine._fork,
    "extend": Engine._extend,
    "allocate": Engine._allocate,
}


def _codes(results: bytes, _: m.Stepped) -> str:
    return codes(results)
