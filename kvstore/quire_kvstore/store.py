"""Store: the facade over one pool. Everything the kvstore can do, as functions of (state, command, now).

Owns the state and who may change it: one thread. No socket, clock, random number or log below this line; times come
in as milliseconds of some monotonic clock. Each method is one file's work; see there for the reasons:

    claiming   allocate, wait           growing    extend            forking    fork
    sealing    fill, seal, swap, copy_done          releasing  fence, reclaim   releasing_many  free
    stepping   step                     staging    what it means to do an op in slices
    offering   offer, adopt, expire     leasing    judge             reading    lookup, slots
"""

from __future__ import annotations

from quire_kvstore.blocks.eviction import EvictionPolicy
from quire_kvstore.ops import allocate as claiming
from quire_kvstore.ops import extend as growing
from quire_kvstore.ops import fork as forking
from quire_kvstore.ops import free as releasing
from quire_kvstore.ops import free_slices as releasing_many
from quire_kvstore.ops import handoff as offering
from quire_kvstore.ops import lifecycle as leasing
from quire_kvstore.ops import query as reading
from quire_kvstore.ops import seal as sealing
from quire_kvstore.ops import step as stepping
from quire_kvstore.ops.invariants import check
from quire_kvstore.ops.slices import Pace, Slices, finish
from quire_kvstore.sessions.session import READY, Peer, Session
from quire_kvstore.sharing.claims import Ticket
from quire_proto.handover import Adopt, Adopted, Offer, Offered
from quire_proto.messages import (
    Allocate,
    Allocated,
    Extend,
    Extended,
    Fork,
    Forked,
    Found,
    Freed,
    Lookup,
    Seal,
    Sealed,
    SessionInfo,
    Step,
    Stepped,
    Wait,
)
from quire_proto.tenancy import TenantUsage

from .counters import Counters
from .state import State


class Store:
    """A pool of ``num_blocks`` blocks of ``block_size`` tokens, with its sessions and publications.

    ``policy`` says what is evicted first (None: the least recently used).
    """

    def __init__(self, num_blocks: int, block_size: int, policy: EvictionPolicy | None = None) -> None:
        self.state = State(num_blocks, block_size, policy)

    @property
    def counters(self) -> Counters:
        """Totals since the boot."""
        return self.state.counters

    def tick(self, now_ms: int) -> None:
        """What time the next operations happen at: eviction asks, offers expire, claims pass on, waits end."""
        self.state.pool.policy.now = now_ms / 1000
        if self.state.offers:
            offering.expire(self.state, now_ms)
        self.state.claims.now_ms = now_ms
        self.state.claims.judge()

    # --- sessions -----------------------------------------------------------------------------------------------

    def attach(self, session_id: bytes, nonce: bytes, name: str, peer: Peer | None, lease_until: int) -> Session:
        """Open a session in state ``attached``; ``peer`` None makes it one that only reads."""
        session = Session(session_id, nonce, name, peer, lease_until)
        self.state.sessions.add(session)
        self.counters.attached += 1
        return session

    def ready(self, session: Session) -> None:
        """The process has mapped the arena."""
        session.state = READY

    def heartbeat(self, session: Session, progress: int, now_ms: int, lease_ms: int) -> None:
        """Renew a lease."""
        session.progress = progress
        leasing.renew(session, now_ms, lease_ms)

    def fence(self, session: Session, now_ms: int) -> None:
        """Quarantine all references of a session."""
        releasing.fence(self.state, session, now_ms)

    def reclaim(self, session: Session) -> int:
        """Take all references of a session back; returns how many."""
        return releasing.reclaim(self.state, session)

    def judge_leases(self, now_ms: int) -> list[Session]:
        """Fence or drop sessions whose lease passed; returns those newly fenced."""
        return leasing.judge(self.state, now_ms)

    def overdue(self, now_ms: int, grace_ms: int) -> list[Session]:
        """Sessions that were fenced at least ``grace_ms`` ago and still hold their quarantine."""
        return leasing.overdue(self.state, now_ms, grace_ms)

    def extend_leases(self, gap_ms: int) -> None:
        """Forgive everybody ``gap_ms`` in which the kvstore stood still."""
        leasing.extend_all(self.state, gap_ms)

    # --- sequences ----------------------------------------------------------------------------------------------

    # What may be long comes twice: in slices, with others' ops between them, and in one go.

    def step_slices(self, session: Session, item: Step) -> Slices[Stepped]:
        """The compound op."""
        return stepping.step(self.state, session, item)

    def step(self, session: Session, item: Step) -> Stepped:
        """The compound op, in one go."""
        return finish(self.step_slices(session, item))

    def allocate_slices(self, session: Session, item: Allocate) -> Slices[Allocated]:
        """A table for a new sequence, or no change: no space, or another is computing what it lacks."""
        return claiming.allocate(self.state, session, item, Pace(self.state))

    def allocate(self, session: Session, item: Allocate) -> Allocated:
        """The same, in one go."""
        return finish(self.allocate_slices(session, item))

    def wait(self, session: Session, item: Wait, ticket: Ticket, until_ms: int) -> str | None:
        """How a wait ended, or None: then its answer will be among :meth:`take_answers`."""
        return claiming.wait(self.state, session, item, ticket, until_ms)

    def take_answers(self) -> list[tuple[Ticket, str]]:
        """Waits that ended since the last call, and how."""
        answers, self.state.claims.answers = self.state.claims.answers, []
        return answers

    def extend(self, session: Session, item: Extend) -> Extended:
        """More capacity and write access, or no space and no change."""
        return growing.extend(self.state, session, item)

    def fork(self, session: Session, item: Fork) -> Forked:
        """Children at a point of a parent."""
        return forking.fork(self.state, session, item)

    def seal(self, session: Session, item: Seal) -> Sealed:
        """Index full blocks."""
        return sealing.seal(self.state, session, item)

    def free_slices(self, session: Session, sequences: bytes) -> Slices[Freed]:
        """Give up sequences (packed numbers)."""
        return releasing_many.free(self.state, session, sequences)

    def free(self, session: Session, sequences: bytes) -> Freed:
        """The same, in one go."""
        return finish(self.free_slices(session, sequences))

    def offer(self, session: Session, item: Offer, identity: bytes, now_ms: int) -> Offered:
        """Freeze a sequence and name it to another session. Raises Refusal."""
        return Offered(offering.offer(self.state, session, item, identity, now_ms).id)

    def adopt(self, session: Session, item: Adopt) -> Adopted:
        """Take an offered sequence over. Raises Refusal."""
        return offering.adopt(self.state, session, item.offer, item.sequence)

    # --- reading ------------------------------------------------------------------------------------------------

    def lookup(self, item: Lookup) -> Found | None:
        """Blocks of a publication or of a digest chain; None for an unknown publication."""
        if item.publication:
            return reading.lookup_publication(self.state, item.publication)
        return reading.lookup_digests(self.state, item)

    def slots(self) -> dict[str, int]:
        """Filled slots and capacity of all blocks in use."""
        return reading.slots(self.state)

    def session_infos(self, now_ms: int) -> tuple[SessionInfo, ...]:
        """All sessions."""
        return reading.sessions(self.state, now_ms)

    def usage(self) -> tuple[TenantUsage, ...]:
        """Usage of each account."""
        return self.state.accounts.usage()

    def check_invariants(self) -> None:
        """Raise AssertionError if any invariant of the store does not hold. Costs O(pool + tables)."""
        check(self.state)
