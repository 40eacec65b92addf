"""The simulated client: attach, heartbeats, resends and the end of a session, by the library's own ``Session``.

What the blocking and the asyncio client do with sockets and timers is done here with events: ordered requests are
pipelined and their answers taken in order, an unanswered one is sent again with everything else in flight under a new
identity (a fresh connection), one that was refused as BUSY goes out when the kvstore said, heartbeats have a session of
their own, and a client that has lost its session lets its device finish, says goodbye, and attaches anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quire_proto.client.heartbeat import BEATS_PER_LEASE
from quire_proto.client.requests import UNORDERED_FROM, Answer, Pending, Session
from quire_proto.messages import Alive, Attach, Attached, Domain, DomainKey, Empty, Heartbeat, Publications
from quire_proto.op_table import ATTACH, DETACH, DOMAIN, HEARTBEAT, PUBLICATIONS, READY, Op
from quire_proto.step.publication_matcher import PublicationList
from quire_proto.wire.codec import decode
from quire_proto.wire.errors import NotPermitted, StaleSession
from tests.proofs.engine import Device
from tests.proofs.sim import Process, Sim
from tests.proofs.sim_kvstore import SimKvstore
from tests.proofs.sim_network import Network
from tests.proofs.world import LEASE_MS
from tests.support.side_socket import Side
from tests.support.stamped_arena import StampedArena

RESEND_MS, TIMEOUT_MS, GOODBYE_MS, HELLO_MS = 20, 250, 80, 60
NEVER_S = 50.0
TENANTS = ("a", "b")
ATTACHING, READY_STATE, LEAVING = "attaching", "ready", "leaving"
KILL = 1 / 1000
KILL_RARE = 1 / 40

Then = Callable[[Any], None]


class SimClient(Process):
    """One client process; ``SimEngine`` gives it work."""

    def __init__(self, sim: Sim, name: str, kvstore: SimKvstore, network: Network) -> None:
        super().__init__(sim, name)
        self.kvstore, self.network = kvstore, network
        self._identities = 0

    @property
    def pid(self) -> int:
        """A number that no other process and no other life of this one has."""
        return 8 * self.life + int(self.name[1:]) + 1

    def begin(self) -> None:
        self._attach_anew()

    def ended(self) -> None:
        self.dropped()
        self.kvstore.wake()
        self.sim.at(self.sim.random.randint(1, 150), self.start)

    def opened(self) -> None:
        """The session is ready: work may begin."""
        raise NotImplementedError

    def dropped(self) -> None:
        """The session is lost, or the process: what it worked on is to be done anew."""
        raise NotImplementedError

    # --- requests -------------------------------------------------------------------------------------------------

    def call(self, op: Op[Any], body: object, then: Then, timeout: float = NEVER_S) -> None:
        """Send a request; ``then`` is called with the reply's body."""
        pending = self.session.request(op, body, timeout)
        self.thens[pending.number] = then
        self._transmit(pending)
        self.later(RESEND_MS, self._resend, self.session, pending, self.sim.now + TIMEOUT_MS)

    def in_flight(self) -> int:
        """Ordered requests whose answer was not taken yet."""
        return sum(number < UNORDERED_FROM for number in self.thens)

    def arrive(self, identity: bytes, frame: bytes) -> None:
        """The network brought a frame to one of this client's sockets."""
        self.later(0, self._receive, identity, frame)

    def _transmit(self, pending: Pending) -> None:
        identity = self.identity
        self.network.carry(self.name, lambda frame: self.kvstore.arrive(identity, frame), pending.frame)

    def _reconnect(self) -> None:
        """A fresh connection, over which everything unanswered goes once more."""
        self._identities += 1
        self._connected = self.sim.now
        self.identity = f"{self.name}:{self._identities}".encode()
        for pending in self.session.in_flight():
            self._transmit(pending)

    def _resend(self, session: Session, pending: Pending, until: int) -> None:
        if session is not self.session or pending not in session.in_flight():
            return
        if self.sim.now >= until and pending.op.ordered:
            self.lose()
            return
        if pending.op.deferred:
            self._transmit(pending)
        elif self.sim.now - self._connected >= RESEND_MS:
            self._reconnect()
        self.later(RESEND_MS, self._resend, session, pending, until)

    def _receive(self, identity: bytes, frame: bytes) -> None:
        self.sim.note("reply", identity, frame)
        if identity == self.beat_identity:
            self._alive(frame)
        if identity != self.identity:
            return
        for answer in self.session.feed(frame):
            if answer.pending.op.ordered:
                self._answers[answer.pending.number] = answer
            else:
                self._take(answer)
        while (answer := self._answers.pop(self._next, None)) is not None:
            self._next += 1
            self._take(answer)
        seconds, refused = self.session.drain_refused()
        if refused:
            self.later(int(seconds * 1000), self._again, self.session, refused)

    def _again(self, session: Session, refused: list[Pending]) -> None:
        for pending in refused:
            if session is self.session and pending in session.in_flight():
                self._transmit(pending)

    def _take(self, answer: Answer) -> None:
        self.sim.failpoint(f"client: got the reply to {answer.pending.op.name}", KILL)
        then = self.thens.pop(answer.pending.number)
        gone = isinstance(answer.error, StaleSession)
        if gone or (answer.pending.op is ATTACH and isinstance(answer.error, NotPermitted)):
            then = self._said_goodbye if answer.pending.op is DETACH else lambda _: self.lose()
        else:
            assert answer.error is None, f"{answer.pending.op.name}: {answer.error}"
        if self.state != LEAVING or answer.pending.op is DETACH:
            then(answer.value)

    # --- a session's life -----------------------------------------------------------------------------------------

    def _attach_anew(self) -> None:
        self.state = ATTACHING
        self.thens: dict[int, Then] = {}
        self._answers: dict[int, Answer] = {}
        self._next = 1
        self.session, self.beats = Session(), Session()
        self.identity = self.beat_identity = b""
        side = self.side = Side(self, lambda hello: self.later(1, self._hello, side, hello, self.kvstore.world.arena))
        if self.kvstore.connect(side):
            self.later(HELLO_MS, self._hello, side, b"", None)
        else:
            self.later(10, self._attach_anew)

    def _hello(self, side: Side, hello: bytes, arena: StampedArena | None) -> None:
        if side is not self.side or self.session.boot:
            return  # of another connection, or heard already
        if arena is None or side.closed:
            self._hang_up()
            return
        said = decode(hello, len(hello))
        assert isinstance(said, dict)
        self.sim.failpoint("client: connected the side socket", KILL_RARE)
        self.session = Session(said["boot"])
        self.device = Device(arena, self.kvstore.world.domains)
        self._reconnect()
        self._deadline = self.sim.now + LEASE_MS
        body = Attach(nonce=self.kvstore.world.fresh_id(), token=said["token"], name=self.name)
        self.call(ATTACH, body, self._attached)

    def _attached(self, attached: Attached) -> None:
        self.sim.failpoint("client: attached", KILL_RARE)
        self.session.opened(attached)
        self.publications = PublicationList(attached.publications, attached.publications_generation)
        self.domains: dict[str, DomainKey] = {}
        self.beats = Session(self.session.boot, attached.session)
        self._identities += 1
        self.beat_identity = f"{self.name}:{self._identities}".encode()
        self._sent: dict[int, int] = {}
        self._beat(self.beats)
        self.call(READY, Empty(), lambda _: None)
        for tenant in TENANTS:
            self.call(DOMAIN, Domain(tenant), lambda key, tenant=tenant: self._domain(tenant, key))

    def _domain(self, tenant: str, key: DomainKey) -> None:
        self.domains[tenant] = key
        if len(self.domains) == len(TENANTS):
            self.sim.failpoint("client: ready", KILL_RARE)
            self.state = READY_STATE
            self.opened()

    def refresh(self) -> None:
        """Fetch the publications again."""
        self.call(PUBLICATIONS, Empty(), self._refreshed)

    def _refreshed(self, fetched: Publications) -> None:
        self.publications.replace(fetched.publications, fetched.generation)

    def lease_valid(self) -> bool:
        """Whether work may be launched, and what completes be kept."""
        return not self.side.closed and self.sim.now < self._deadline

    def _beat(self, beats: Session) -> None:
        if beats is not self.beats or self.state == LEAVING:
            return
        if not self.lease_valid():
            self.lose()
            return
        for old in beats.in_flight()[: -2 * BEATS_PER_LEASE]:
            beats.abandon(old)
        pending = beats.request(HEARTBEAT, Heartbeat(self.device.step + 1), NEVER_S)
        self._sent[pending.number] = self.sim.now
        identity = self.beat_identity
        self.network.carry(self.name, lambda frame: self.kvstore.arrive(identity, frame), pending.frame)
        self.later(LEASE_MS // BEATS_PER_LEASE, self._beat, beats)

    def _alive(self, frame: bytes) -> None:
        for answer in self.beats.feed(frame):
            if answer.error is not None:
                assert isinstance(answer.error, StaleSession), answer.error
                self.lose()
                return
            alive: Alive = answer.value
            self._deadline = max(self._deadline, self._sent.pop(answer.pending.number) + alive.lease_ms)
            if alive.publications_generation > self.publications.generation and self.state == READY_STATE:
                self.refresh()

    def lose(self) -> None:
        """The session is over: launch nothing, keep nothing, finish what runs, say goodbye, attach anew."""
        if self.state == LEAVING:
            return
        self.sim.note("loses its session", self.name)
        self.state = LEAVING
        self.dropped()
        self.sim.failpoint("client: lost its session", KILL_RARE)
        self._finish()

    def _finish(self) -> None:
        if self.session.session and self.device.work:
            self.later(2, self._finish)  # what was launched runs to its end, lost or not
        elif not self.session.session or not self.session.has_space():
            self._hang_up()
        else:
            self.call(DETACH, Empty(), self._said_goodbye)
            self.later(GOODBYE_MS, self._no_goodbye, self.session)

    def _no_goodbye(self, session: Session) -> None:
        if session is self.session:
            self._hang_up()

    def _said_goodbye(self, _: Any) -> None:
        self.sim.failpoint("client: said goodbye", KILL_RARE)
        self._hang_up()

    def _hang_up(self) -> None:
        self.side.hung_up = True
        self.kvstore.wake()
        self._attach_anew()
