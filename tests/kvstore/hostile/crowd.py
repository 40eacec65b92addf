"""A crowd of clients that keep no rule, one that keeps them all, an operator and a slow disk, around one dispatch.

Whatever a seed makes of it, after every message: the store's invariants hold, nothing was INTERNAL, no account has
another's name, and the innocent is served (``innocent``). Sessions end at every point: dead, fenced, detached, with
requests half done and declarations half saved. In the end every wait is over, nothing is held, and the state directory
says what the store says. A seed that fails does so again:

    python -m tests.kvstore.hostile.crowd SEED [SEEDS] [TURNS]
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import dataclass

import structlog

from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.events.catalogue import Catalogue, Form
from quire_kvstore.host.saved import Declarations
from quire_kvstore.server import quota
from quire_kvstore.server.dispatch import Dispatch
from quire_kvstore.server.service import Service
from quire_kvstore.server.task import Task
from quire_kvstore.sessions.session import READY, Peer, Session
from quire_kvstore.sharing.change_log import Journal
from quire_kvstore.sharing.publications import PublicationList
from quire_proto import messages as m
from quire_proto.wire.codec import to_map
from quire_proto.wire.envelope import Reply, Request, decode_reply
from quire_proto.wire.handles import ShmHandle
from quire_proto.wire.layout import Layout
from tests.kvstore.hostile.bodies import ROOT_KEY, SIZE, Bodies
from tests.kvstore.hostile.innocent import WAIT_MS, Innocent
from tests.proofs.documents import Documents
from tests.support.slow_disk import SlowDisk
from tests.support.store import Store

LEASE_MS, LONGEST_WAIT_MS = 1000, 60_000
MOST, QUEUED = 6, 14
LAYOUT = Layout("tiny", "w0", "{}", "", "float32", SIZE, 1, 1, 8)
PLAIN = 1 << 62  # numbers of what is not ordered


@dataclass(eq=False)
class Client:
    """A process with one session."""

    name: bytes
    peer: Peer
    id: bytes
    queued: int = 0  # ordered requests on their way


@dataclass(frozen=True, slots=True)
class Queued:
    """A request in the socket; ``client`` of an ordered one."""

    task: Task
    client: Client | None = None


class Crowd:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        blocks = chance.choice((8, 14, 26))
        self.store = Store(blocks, SIZE, make_policy(chance.choice(("density", "lru")), blocks))
        self.state = self.store.state
        self.state.slice_blocks = chance.choice((1, 1, 2, 128))
        self.state.claims.patience_ms = chance.choice((50, 5000))
        self.state.quotas.pin_budget = self.state.publications.budget = blocks // 3
        self.state.quotas.quarantine_reserve = chance.choice((0, 1))
        self.state.index.journal = self.journal = Journal()
        self.catalogue = Catalogue(Form(SIZE, "", "none", "bytes", ROOT_KEY))
        self.documents, self.disk = Documents(), SlowDisk()
        ids = iter(range(1, 1 << 40))
        self.service = Service(
            self.store.state,
            LAYOUT,
            ShmHandle("/quire-hostile", LAYOUT.arena_bytes(blocks)),
            ROOT_KEY,
            lease_ms=LEASE_MS,
            started_ms=0,
            state_dir=self.documents,
            declarations=Declarations(self.documents),
            disk=self.disk,
            ids=lambda: next(ids).to_bytes(16, "big"),
        )
        self.dispatch, self.bodies = Dispatch(self.service), Bodies(chance, self.state)
        self.now = self.plain = 0
        self.queue: list[Queued] = []
        self.clients: list[Client] = []
        self.dead: list[bytes] = [bytes(16)]
        self.codes: Counter[str] = Counter()
        self.innocent, self.idle = Innocent(chance, blocks), True
        self.honest = self.attach()
        self.attach()

    def run(self, turns: int) -> int:
        """So many turns, then peace; prompts that the innocent has computed. Raises AssertionError."""
        for _ in range(turns):
            self.now += self.chance.choice((0, 0, 1, 5, 20))
            self.happen()
            if len(self.queue) < QUEUED:
                self.say()
            self.handle(self.chance.randrange(len(self.queue)) if self.queue else 0)
        self.settle()
        return self.innocent.finished

    # --- what happens ---------------------------------------------------------------------------------------------

    def attach(self) -> Client:
        """A process opens a session."""
        peer = self.service.admit(1)
        client = Client(b"%d" % len(self.dead + self.clients), peer, b"")
        attach = m.Attach(self.service.fresh_id(), peer.token)
        client.id = self.ask(client, "attach", attach, self.fresh()).body["session"]
        assert self.ask(client, "ready", m.Empty(), 1).code == ""
        self.clients.append(client)
        return client

    def happen(self) -> None:
        """The disk, the clock and the kernel have their turn."""
        chance, hostile = self.chance, [c for c in self.clients if c is not self.honest]
        if chance.random() < 0.5:
            self.disk.turn()
        kind = chance.random()
        if kind < 0.04 and len(self.clients) < MOST:
            self.attach()
        elif kind < 0.05 and hostile:
            self.dies(chance.choice(hostile))
        elif kind < 0.06 and hostile and (session := self.session(chance.choice(hostile))):
            self.store.fence(session, self.now)
        elif kind < 0.068:
            self.now += chance.choice((50, 100, 200, 2 * LEASE_MS))
        elif kind < 0.074:
            self.store.extend_leases(300)
        for client in self.clients:
            if (session := self.session(client)) and (client is self.honest or chance.random() < 0.7):
                self.store.heartbeat(session, 0, self.now, LEASE_MS)
        self.store.judge_leases(self.now)
        if chance.random() < 0.4:
            list(self.catalogue.apply(self.journal.drain()))

    def dies(self, client: Client) -> None:
        """The kernel says that a process is gone."""
        self.clients.remove(client)
        self.dead.append(client.id)
        self.service.forget(client.peer)
        for session in self.state.sessions.of_peer(client.peer):
            self.store.reclaim(session)

    def session(self, client: Client) -> Session | None:
        """The store's session of a client."""
        return self.state.sessions.get(client.id)

    # --- what is said ---------------------------------------------------------------------------------------------

    def say(self) -> None:
        """Some client sends a request; the innocent one whenever it has its answer."""
        chance = self.chance
        if self.idle:
            self.idle = False
            op, body = self.innocent.request()
            number = self.fresh() if op == "wait" else self.next_number(self.honest)
            self.send(self.honest, op, body, number, WAIT_MS if op == "wait" else 0)
        hostile = [c for c in self.clients if c is not self.honest] or [self.attach()]
        acting = [c for c in hostile if (session := self.session(c)) and session.state == READY]
        client = chance.choice(acting if acting and chance.random() < 0.9 else hostile)
        kind = chance.random()
        if kind < 0.07:
            op, body = self.bodies.administration()
            self.send(chance.choice((None, client)), op, body, self.fresh())
        elif kind < 0.25:
            self.send(client, "wait", self.bodies.wait(self.session(client)), self.fresh(), chance.choice((0, 1, 500)))
        else:
            op, body = self.bodies.ordered(self.session(client), [*self.dead, *(c.id for c in self.clients)])
            wrong = chance.choice((-9, -1, 1, 2)) if kind < 0.28 else 0  # used before, or ahead
            self.send(client, op, body, max(0, self.next_number(client) + wrong), consumed=not wrong)

    def fresh(self) -> int:
        """A number of something that is not ordered."""
        self.plain += 1
        return PLAIN + self.plain

    def next_number(self, client: Client) -> int:
        """The number that the next ordered request should have."""
        session = self.session(client)
        return (session.window.next_number if session else 1) + client.queued

    def send(
        self, client: Client | None, op: str, body: object, number: int, deadline: int = 0, consumed: bool = True
    ) -> None:
        """Put a request into the socket, now and then a second time by another connection."""
        frame = Request(self.service.boot, client.id if client else b"", number, op, deadline, to_map(body)).encode()
        name, ordered = client.name if client else b"operator", client if number < PLAIN and consumed else None
        if ordered is not None:
            ordered.queued += 1
        self.queue.append(Queued(Task(name, [frame], self.now), ordered))
        if client is not self.honest and self.chance.random() < 0.05:
            self.queue.append(Queued(Task(name + b"again", [bytes(bytearray(frame))], self.now)))

    def ask(self, client: Client, op: str, body: object, number: int) -> Reply:
        """A request that is answered at once."""
        frame = Request(self.service.boot, client.id, number, op, 0, to_map(body)).encode()
        answer = self.dispatch.handle(Task(client.name, [frame], self.now), self.now)
        assert answer
        return decode_reply(answer)

    # --- what is answered -----------------------------------------------------------------------------------------

    def handle(self, at: int) -> None:
        """The oldest request of a connection is executed, or a slice of it."""
        if self.queue:
            name = self.queue[at].task.peer
            message = self.queue.pop(next(i for i, other in enumerate(self.queue) if other.task.peer == name))
            answer = self.dispatch.handle(message.task, self.now)
            if message.task.slices is not None:
                self.queue.insert(0, message)
            else:
                if message.client is not None:
                    message.client.queued -= 1
                if answer is not None:
                    self.heard(name, answer)
        for name, answer in self.dispatch.deferred(self.now):
            self.heard(name, answer)
        self.check()

    def heard(self, name: bytes, answer: bytes) -> None:
        """A reply arrives."""
        reply = decode_reply(answer)
        self.codes[reply.code] += 1
        if name == self.honest.name:
            self.idle = True
            self.innocent.answered(reply)

    def check(self) -> None:
        """What must hold after every message."""
        self.store.check_invariants()
        assert self.store.counters.internal_errors == 0, "INTERNAL: an exception in the kvstore"
        names = [usage.tenant for usage in self.store.usage()]
        assert len(set(names)) == len(names), f"two accounts of one name: {names}"

    def settle(self) -> None:
        """No client says anything more: what was asked is answered, what waits is told, what was held comes back."""
        while self.queue:
            self.now += 1
            self.disk.turn()
            self.handle(self.chance.randrange(len(self.queue)))
        assert not self.service.declaring, "a declaration that never ends"
        self.now += LONGEST_WAIT_MS + 1
        for session in self.state.sessions.all():
            self.store.heartbeat(session, 0, self.now, LEASE_MS)
        self.handle(0)
        assert self.idle, "the innocent has no answer"
        assert self.state.claims.waits == 0, "a wait beyond its deadline"
        for client in list(self.clients):
            self.dies(client)
        list(self.catalogue.apply(self.journal.drain()))
        self.check()
        counts, published = self.state.pool.counts(), self.state.publications.all()
        pinned = {int(block) for record in published if record.table is not None for block in record.table}
        assert (counts["held"], counts["quarantined"]) == (len(pinned), 0), f"held by no session: {counts}"
        assert not self.state.claims.all(), "claims of no session"
        assert not self.state.offers, "offers of no session"
        self.compare()

    def compare(self) -> None:
        """The documents say what the store says."""
        kept, saved = PublicationList(), Store(self.state.pool.size, SIZE).state
        declarations = Declarations(self.documents)
        declarations.restore_publications(kept)
        saved.quotas.pin_budget, saved.quotas.quarantine_reserve = self.state.quotas.pin_budget, 0
        quota.restore(self.documents, saved)
        assert declarations.groups(()).document() == self.state.groups.document(), "groups on the disk"
        there = {record.id: (record.domain, record.packed) for record in self.state.publications.all()}
        assert {record.id: (record.domain, record.packed) for record in kept.all()} == there, "publications on the disk"
        assert saved.accounts.quotas() == self.state.accounts.quotas(), "quotas on the disk"


def run(first: int, seeds: int, turns: int) -> tuple[int, Counter[str]]:
    """So many seeds; prompts that innocents computed, and replies by code. Raises AssertionError with the seed."""
    finished, codes = 0, Counter[str]()
    for seed in range(first, first + seeds):
        crowd = Crowd(seed)
        try:
            with structlog.testing.capture_logs() as logged:
                finished += crowd.run(turns)
        except (AssertionError, KeyError, ValueError, IndexError, TypeError, AttributeError) as exc:
            told = [entry for entry in logged if entry["event"] == "internal_error"]
            raise AssertionError(f"seed {seed}, {turns} turns: {type(exc).__name__}: {exc} {told}") from exc
        codes += crowd.codes
    return finished, codes


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]] + [1, 1, 400][len(sys.argv) - 1 :]
    print(*run(*arguments))
