"""A store with a stamped arena: what tests of blocks and sequences act on.

Each engine writes what it is granted and must find its own content below its fill marks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quire_kvstore.blocks.eviction import EvictionPolicy
from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import Peer, Session
from quire_proto import messages as m
from quire_proto.wire.digests import DIGEST_BYTES, chain
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32
from tests.support.stamped_arena import StampedArena
from tests.support.store import Store


def key_of(tenant: str) -> bytes:
    """A digest key of a tenant."""
    return tenant.encode().ljust(32, b"\0")


@dataclass
class Branch:
    """The engine's side of a sequence: its tokens, its table as last told, copies it still has to do."""

    tenant: str
    tokens: list[int]
    table: list[int]
    fill: int
    capacity: int
    undone: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    unacknowledged: list[int] = field(default_factory=list)


class Driver:
    """A store, its arena, and engines that do what replies tell them."""

    def __init__(
        self,
        blocks: int = 16,
        block_size: int = 4,
        publications: dict[str, list[int]] | None = None,
        policy: EvictionPolicy | None = None,
    ) -> None:
        self.store = Store(blocks, block_size, policy)
        self.size = block_size
        for identity, tokens in (publications or {}).items():
            self.store.state.publications.add(identity, "public", tokens)
        self.arena = StampedArena.in_memory(blocks, block_size)
        self.branches: dict[bytes, dict[int, Branch]] = {}
        self._attached = 0

    def attach(self, lease_until: int = 1 << 40) -> Session:
        """A ready session."""
        self._attached += 1
        name = self._attached.to_bytes(16, "little")
        session = self.store.attach(name, name, f"engine-{self._attached}", Peer(self._attached, name), lease_until)
        self.store.ready(session)
        self.branches[name] = {}
        return session

    def generation(self, publication: str) -> int:
        """Present generation of a publication; 0 if there is none."""
        published = self.store.state.publications.get(publication)
        return published.generation if published else 0

    def branch(self, session: Session, number: int) -> Branch:
        """The engine's side of a sequence."""
        return self.branches[session.id][number]

    def sequence(self, session: Session, number: int) -> Sequence:
        """The store's side of a sequence."""
        return session.sequences[number]

    def digests(self, tenant: str, tokens: list[int]) -> bytes:
        """The tenant's chain."""
        return chain(key_of(tenant), tokens, self.size)

    def allocate(
        self,
        session: Session,
        number: int,
        tokens: list[int],
        tenant: str = "a",
        publication: str = "",
        reserve: int = 0,
        priority: int = 0,
        may_wait: int = 0,
    ) -> m.Allocated:
        """Allocate, and remember what the reply says."""
        item = m.Allocate(
            sequence=number,
            tenant=tenant,
            tokens=len(tokens),
            digests=self.digests(tenant, tokens),
            publication=publication,
            publication_generation=self.generation(publication),
            reserve=reserve,
            priority=priority,
            may_wait=may_wait,
        )
        reply = self.store.allocate(session, item)
        if reply.code == m.OK:
            table = list(unpack_u32(reply.blocks))
            branch = Branch(tenant, list(tokens), table, reply.computed, len(table) * self.size)
            self._owe(branch, reply.copies)
            self.branches[session.id][number] = branch
        return reply

    def extend(self, session: Session, number: int, tokens: int) -> m.Extended:
        """Extend, and remember what the reply says."""
        reply = self.store.extend(session, m.Extend(number, tokens))
        if reply.code == m.OK:
            branch = self.branch(session, number)
            branch.table[reply.first :] = list(unpack_u32(reply.blocks))
            branch.capacity = max(branch.capacity, len(branch.table) * self.size if reply.blocks else branch.capacity)
            self._owe(branch, reply.copies)
        return reply

    def write(self, session: Session, number: int, upto: int, token: int = 0) -> int:
        """Do owed copies, write slots up to ``upto`` (tokens past the known ones are ``token``), acknowledge."""
        branch = self.branch(session, number)
        self._copy(branch)
        branch.tokens += [token] * (upto - len(branch.tokens))
        self.arena.write(branch.table, branch.tokens, branch.fill, upto)
        reply = self.store.step(session, m.Step(fills=pack_u32((number, upto))))
        if reply.fills[0] == m.OK:
            branch.fill = upto
        return reply.fills[0]

    def acknowledge(self, session: Session, number: int) -> list[int]:
        """Acknowledge the copies done; their codes."""
        branch = self.branch(session, number)
        done, branch.unacknowledged = branch.unacknowledged, []
        return list(self.store.step(session, m.Step(copies_done=pack_u32(done))).copies_done)

    def fork(self, session: Session, parent: int, child: int, at: int) -> int:
        """Fork one child."""
        code = self.store.fork(session, m.Fork(parent, pack_u32([child]), at)).code
        if code == m.OK:
            own = self.branch(session, parent)
            self._copy(own)  # the engine runs copies before anything that reads their target
            table = own.table[: -(-at // self.size)]
            self.branches[session.id][child] = Branch(own.tenant, own.tokens[:at], table, at, at)
        return code

    def seal(self, session: Session, number: int, swap: bool = True) -> m.Sealed:
        """Seal every full block not yet sealed, and swap to canonical blocks."""
        branch = self.branch(session, number)
        first = self.sequence(session, number).sealed
        digests = self.digests(branch.tenant, branch.tokens[: branch.fill])[first * DIGEST_BYTES :]
        reply = self.store.seal(session, m.Seal(number, first, digests))
        for index, block in unpack_rows(reply.canonical, 2) if swap else []:
            assert self.store.step(session, m.Step(swaps=pack_u32((number, index, block)))).swaps == bytes([m.OK])
            branch.table[index] = block
        return reply

    def free(self, session: Session, *numbers: int) -> list[int]:
        """Free sequences; their codes."""
        for number in numbers:
            self.branches[session.id].pop(number, None)
        return list(self.store.free(session, pack_u32(numbers)).codes)

    def gone(self, session: Session) -> int:
        """The process is dead."""
        del self.branches[session.id]
        return self.store.reclaim(session)

    def counts(self) -> dict[str, int]:
        """Blocks by state."""
        return self.store.state.pool.counts()

    def check(self) -> None:
        """The store's own invariants; each engine's table is the store's; each sequence's content is its own."""
        self.store.check_invariants()
        for session in self.store.state.sessions.all():
            for number, branch in self.branches[session.id].items():
                sequence = session.sequences[number]
                assert sequence.table.tolist() == branch.table, "the engine's table is the store's"
                assert sequence.fill == branch.fill
                source = {dst: src for src, dst, _ in branch.undone.values()}
                table = [source.get(block, block) for block in branch.table]
                self.arena.read(table, branch.tokens, branch.fill)

    def _owe(self, branch: Branch, copies: bytes) -> None:
        for copy_id, src, dst, slots in unpack_rows(copies, 4):
            branch.undone[copy_id] = (src, dst, slots)

    def _copy(self, branch: Branch) -> None:
        for copy_id, (src, dst, slots) in branch.undone.items():
            self.arena.copy(src, dst, slots)
            branch.unacknowledged.append(copy_id)
        branch.undone.clear()
