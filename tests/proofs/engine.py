"""Device and Engine: one client of the machine. Real numbers, real chain, real retire list; work completes when a rule
says so.

``launch`` notes what a step will read and write, ``complete`` does it: scrubs and copies first, then each row attends
to all tokens before the one it writes. Whatever is wrong in the store or the client library by then shows as a slot
that holds something else. Fills, seals and releases go out for completed work only.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from quire_proto import messages as m
from quire_proto.step.retire import RetireList
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.codec import from_map, to_map
from quire_proto.wire.envelope import Reply, Request, decode_reply
from quire_proto.wire.u32 import unpack_rows, unpack_u32
from tests.proofs.domains import Domains
from tests.proofs.world import SIZE, World
from tests.support.stamped_arena import StampedArena

KEPT = 12  # frames remembered for resends: more than the window


@dataclass(eq=False)
class Branch:
    """The engine's side of a sequence. ``fill`` is acknowledged, ``written`` completed, ``launched`` under way;
    ``domain`` is that of the publication it began with; ``behind``: blocks given back, which nothing reads any more."""

    tenant: str
    chain: DomainChain
    table: list[int]
    fill: int
    writable: int
    domain: str = ""
    written: int = 0
    launched: int = 0
    last_step: int = -1
    behind: int = 0
    copies: list[tuple[int, ...]] = field(default_factory=list)
    scrubs: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        """Tokens so far."""
        return list(unpack_u32(self.chain.tokens))

    def granted(self, reply: m.Allocated) -> None:
        """Take the table of a new sequence over."""
        self.table = list(unpack_u32(reply.blocks))
        self.fill = self.written = self.launched = reply.computed
        self.writable = len(self.table) * SIZE
        self.copies = [tuple(row) for row in unpack_rows(reply.copies, 4)]
        self.scrubs = list(unpack_u32(reply.scrub))

    def extended(self, reply: m.Extended) -> None:
        """Remember a longer table. Work launched before goes on with the old one, which it may still write."""
        if reply.blocks:
            self.table[reply.first :] = list(unpack_u32(reply.blocks))
            self.writable = len(self.table) * SIZE
            self.copies += [tuple(row) for row in unpack_rows(reply.copies, 4)]
            self.scrubs += list(unpack_u32(reply.scrub))


@dataclass(eq=False)
class Work:
    """A launched step of one row. ``table`` is the table at launch: swaps come at step boundaries."""

    step: int
    branch: Branch
    table: list[int]
    start: int
    end: int
    copies: list[tuple[int, ...]]
    scrubs: list[int]


class Device:
    """What an engine has launched, on the arena of one boot, and what it will give up when that has completed."""

    def __init__(self, arena: StampedArena, domains: Domains) -> None:
        self.arena, self.domains = arena, domains
        self.step = -1
        self.retire = RetireList()
        self.work: deque[Work] = deque()

    def launch(self, branch: Branch, upto: int, token: int) -> None:
        """Start a step that writes slots up to ``upto``; tokens that are not known yet are ``token``."""
        branch.chain.append([token] * (upto - len(branch.chain)))
        self.step += 1
        (copies, branch.copies), (scrubs, branch.scrubs) = (branch.copies, []), (branch.scrubs, [])
        self.work.append(Work(self.step, branch, list(branch.table), branch.launched, upto, copies, scrubs))
        branch.launched, branch.last_step = upto, self.step

    def run(self) -> Work:
        """The oldest step runs to its end, as the device would do it."""
        work = self.work.popleft()
        arena, branch = self.arena, work.branch
        tokens, tenant = branch.tokens, branch.tenant
        for block in work.scrubs:
            arena.scrub(block)
        for _, src, dst, count in work.copies:
            arena.copy(src, dst, count)
        shared = self.domains.shared(branch.domain, tokens)
        arena.write(work.table, tokens, work.start, min(shared, work.end), branch.domain)
        arena.write(work.table, tokens, max(shared, work.start), work.end, tenant)
        arena.read(work.table, tokens, work.end, self.domains.readable(tenant, tokens), branch.behind * SIZE)
        for block in work.table[work.start // SIZE : -(-work.end // SIZE)]:
            arena.check_writers(block, self.domains.of(tenant))
        return work

    def seen(self, work: Work) -> None:
        """The host sees that a step has completed."""
        work.branch.written = work.end
        self.retire.complete(work.step)

    def complete(self) -> Work | None:
        """The oldest step runs, and the host sees it."""
        if not self.work:
            return None
        work = self.run()
        self.seen(work)
        return work


class Engine(Device):
    """A session and its branches."""

    def __init__(self, world: World) -> None:
        super().__init__(world.arena, world.domains)
        self.world = world
        self.boot = world.service.boot
        self.id = b""
        self.number = 0
        self.branches: dict[int, Branch] = {}
        self.sent: deque[tuple[int, bytes, bytes]] = deque(maxlen=KEPT)
        self.keys: dict[str, bytes] = {}
        peer = world.admit()
        attach = m.Attach(nonce=world.fresh_id(), token=peer.token)
        self.attached = from_map(m.Attached, self.request("attach", attach, ordered=False).body)
        self.id = self.attached.session
        self.peer = peer
        self.listed = m.Publications(self.attached.publications, self.attached.publications_generation)
        assert self.request("ready", m.Empty()).code == ""

    def frame(self, op: str, body: Any, number: int) -> bytes:
        """A request in bytes."""
        return Request(self.boot, self.id, number, op, 0, to_map(body)).encode()

    def request(self, op: str, body: Any, ordered: bool = True) -> Reply:
        """Send the next request and keep it for resends."""
        self.number += ordered
        frame = self.frame(op, body, self.number if ordered else 1 << 62)
        reply = self.world.answer(frame)
        if ordered:
            self.sent.append((self.number, frame, reply))
        return decode_reply(reply)

    def ok(self, op: str, body: Any, reply_type: type) -> Any:
        """The body of a reply that must be a success."""
        reply = self.request(op, body)
        assert reply.code == "", (op, reply)
        return from_map(reply_type, reply.body)

    def chain(self, tenant: str, tokens: list[int]) -> DomainChain:
        """A chain under the tenant's own key, fetched once."""
        if tenant not in self.keys:
            body = self.request("domain", m.Domain(tenant), ordered=False).body
            self.keys[tenant] = body["key"]
        return DomainChain(self.keys[tenant], SIZE, tokens)

    def fetch(self) -> None:
        """Ask for the list of publications again."""
        self.listed = from_map(m.Publications, self.request("publications", m.Empty(), ordered=False).body)

    def allocated(self, number: int, item: m.Allocate, chain: DomainChain, reply: m.Allocated, domain: str) -> None:
        """Remember a new sequence. ``domain``: of the publication named, "" for none."""
        label = f"({domain})" if domain else ""
        branch = Branch(item.tenant or label, chain, [], 0, 0, label)
        branch.granted(reply)
        self.branches[number] = branch

    def check(self) -> None:
        """Everything acknowledged can be read by its owner."""
        for branch in self.branches.values():
            moved = {dst: src for _, src, dst, _ in branch.copies}
            moved |= {w[2]: w[1] for work in self.work if work.branch is branch for w in work.copies}
            table, tokens = [moved.get(block, block) for block in branch.table], branch.tokens
            readable = self.domains.readable(branch.tenant, tokens)
            self.arena.read(table, tokens, branch.fill, readable, branch.behind * SIZE)
