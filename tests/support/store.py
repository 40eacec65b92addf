"""Store: the ops of the kvstore as methods over one state, each in one go. What tests act on that need no socket."""

from __future__ import annotations

from quire_kvstore.blocks.eviction import EvictionPolicy
from quire_kvstore.counters import Counters
from quire_kvstore.ops import (
    allocate,
    extend,
    fork,
    free,
    handoff,
    lifecycle,
    query,
    seal,
    step,
    wait,
)
from quire_kvstore.ops.slices import finish
from quire_kvstore.sessions.session import Peer, Session
from quire_kvstore.sharing.claims import Ticket
from quire_kvstore.state import State
from quire_kvstore.views import invariants
from quire_proto import messages as m
from quire_proto.messages.handoff import Offer, Offered
from quire_proto.messages.tenants import TenantUsage


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
        self.state.tick(now_ms)

    # --- sessions -----------------------------------------------------------------------------------------------

    def attach(self, session_id: bytes, nonce: bytes, name: str, peer: Peer | None, lease_until: int) -> Session:
        """Open a session in state ``attached``; ``peer`` None makes it one that only reads."""
        return lifecycle.attach(self.state, session_id, nonce, name, peer, lease_until)

    def ready(self, session: Session) -> None:
        """The process has mapped the arena."""
        lifecycle.ready(session)

    def heartbeat(self, session: Session, progress: int, now_ms: int, lease_ms: int) -> None:
        """Renew a lease."""
        lifecycle.heartbeat(session, progress, now_ms, lease_ms)

    def fence(self, session: Session, now_ms: int) -> None:
        """Quarantine all references of a session."""
        free.fence(self.state, session, now_ms)

    def reclaim(self, session: Session) -> int:
        """Take all references of a session back; returns how many."""
        return free.reclaim(self.state, session)

    def judge_leases(self, now_ms: int) -> list[Session]:
        """Fence or drop sessions whose lease passed; returns those newly fenced."""
        return lifecycle.judge(self.state, now_ms)

    def extend_leases(self, gap_ms: int) -> None:
        """Forgive all sessions ``gap_ms`` in which the kvstore stood still."""
        lifecycle.forgive(self.state, gap_ms)

    # --- sequences ----------------------------------------------------------------------------------------------

    def step(self, session: Session, item: m.Step) -> m.Stepped:
        """The compound op."""
        return finish(step.step(self.state, session, item))

    def allocate(self, session: Session, item: m.Allocate) -> m.Allocated:
        """A table for a new sequence, or no change: no space, or another is computing what it lacks."""
        return finish(allocate.allocate(self.state, session, item))

    def wait(self, session: Session, item: m.Wait, ticket: Ticket, until_ms: int) -> str | None:
        """How a wait ended, or None: then its answer will be among :meth:`drain_answers`."""
        return wait.wait(self.state, session, item, ticket, until_ms)

    def drain_answers(self) -> list[tuple[Ticket, str]]:
        """Waits that ended since the last call, and how."""
        return self.state.claims.drain_answers()

    def extend(self, session: Session, item: m.Extend) -> m.Extended:
        """More capacity and write access, or no space and no change."""
        return extend.extend(self.state, session, item)

    def fork(self, session: Session, item: m.Fork) -> m.Forked:
        """Children at a point of a parent."""
        return fork.fork(self.state, session, item)

    def seal(self, session: Session, item: m.Seal) -> m.Sealed:
        """Index full blocks."""
        return seal.seal(self.state, session, item)

    def free(self, session: Session, sequences: bytes) -> m.Freed:
        """Give up sequences (packed numbers)."""
        return finish(free.free(self.state, session, m.Free(sequences)))

    def offer(self, session: Session, item: Offer, identity: bytes, now_ms: int) -> Offered:
        """Freeze a sequence and name it to another session. Raises Refusal."""
        return Offered(m.OK, handoff.offer(self.state, session, item, identity, now_ms).id)

    # --- reading ------------------------------------------------------------------------------------------------

    def lookup(self, item: m.Lookup) -> m.Found | None:
        """Blocks of a publication or of a digest chain; None for an unknown publication."""
        return query.lookup(self.state, item)

    def usage(self) -> tuple[TenantUsage, ...]:
        """Usage of each account."""
        return self.state.accounts.usage()

    def check_invariants(self) -> None:
        """Raise AssertionError if any invariant of the store does not hold. Costs O(pool + tables)."""
        invariants.check(self.state)
