"""Claims: what is missing is computed by one sequence, and passes to exactly one waiter when that one gives up."""

from __future__ import annotations

import pytest

from quire_kvstore.ops import publish as publishing
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.claims import Ticket
from quire_proto import messages as m
from quire_proto.wire.digests import DIGEST_BYTES, split
from quire_proto.wire.u32 import pack_u32, unpack_rows
from tests.support.driver import Driver

PROMPT = [1] * 17  # four full blocks of 4 and a token
SECOND = 1000


class Agents:
    """A driver whose sequences may wait; every sequence has a number of its own."""

    def __init__(self, blocks: int = 64, publications: dict[str, list[int]] | None = None) -> None:
        self.driver = Driver(blocks, publications=publications)
        self.store = self.driver.store
        self.now = 0

    def ask(
        self,
        session: Session,
        number: int,
        tokens: list[int] = PROMPT,
        *,
        tenant: str = "a",
        publication: str = "",
        priority: int = 0,
        may_wait: int = 1,
    ) -> m.Allocated:
        reply = self.driver.allocate(session, number, tokens, tenant, publication, priority=priority, may_wait=may_wait)
        self.store.check_invariants()
        return reply

    def wait(
        self, session: Session, number: int, digest: bytes = b"", *, publication: str = "", priority: int = 0
    ) -> str | None:
        """Wait 60 s for a digest; the request's number is the sequence's."""
        item = m.Wait(number, digest, publication, priority, 1 if publication else 0)
        state = self.store.wait(session, item, Ticket(session.name.encode(), number), self.now + 60 * SECOND)
        self.store.check_invariants()
        return state

    def ask_and_wait(self, session: Session, number: int, tokens: list[int] = PROMPT, priority: int = 0) -> None:
        """Be told CLAIMED and wait."""
        reply = self.ask(session, number, tokens, priority=priority)
        assert reply.code == m.CLAIMED
        assert self.wait(session, number, reply.claimed[-DIGEST_BYTES:], priority=priority) is None

    def compute(self, session: Session, number: int, upto: int | None = None) -> None:
        """Write and seal up to a token."""
        tokens = len(self.driver.branch(session, number).tokens)
        assert self.driver.write(session, number, tokens if upto is None else upto) == m.OK
        assert self.driver.seal(session, number).code == m.OK
        self.store.check_invariants()

    def at(self, now: int) -> None:
        """Let it be ``now`` (ms)."""
        self.now = now
        self.store.tick(now)
        self.store.check_invariants()

    def answers(self) -> list[tuple[int, str]]:
        """(sequence, state) of waits that ended."""
        self.store.check_invariants()
        return [(ticket.number, state) for ticket, state in self.store.take_answers()]


@pytest.fixture
def agents() -> Agents:
    return Agents()


def test_the_second_waits_for_the_first_and_hits(agents: Agents) -> None:
    """It is told what another computes, holds nothing meanwhile, and computes one token once all is sealed."""
    one, two = agents.driver.attach(), agents.driver.attach()
    assert agents.ask(one, 1).code == m.OK
    free = agents.store.state.pool.free
    reply = agents.ask(two, 2)
    assert (reply.code, reply.computed, reply.blocks) == (m.CLAIMED, 0, b"")
    assert reply.claimed == agents.driver.digests("a", PROMPT)
    assert agents.store.state.pool.free == free
    assert agents.wait(two, 2, reply.claimed[-DIGEST_BYTES:]) is None
    agents.compute(one, 1, 8)
    assert agents.answers() == []
    agents.compute(one, 1)
    assert agents.answers() == [(2, "sealed")]
    assert agents.ask(two, 2).computed == 16
    assert agents.store.counters.duplicates == 0
    agents.driver.check()


def test_nobody_waits_who_may_not(agents: Agents) -> None:
    """Without ``may_wait`` a table comes at once, with what another sequence is computing; its seals are duplicates."""
    one = agents.driver.attach()
    agents.ask(one, 1)
    reply = agents.ask(one, 2, may_wait=0)
    assert (reply.code, reply.claimed) == (m.OK, agents.driver.digests("a", PROMPT))
    agents.compute(one, 1)
    agents.compute(one, 2)
    assert agents.store.counters.duplicates == 4
    assert agents.store.state.pool.counts()["held"] == 4 + 2, "swapped: one copy of the full blocks, two tails"


def test_only_the_missing_part_is_claimed(agents: Agents) -> None:
    """A prompt that goes on where another's ends waits for the common part only, then claims the rest."""
    one = agents.driver.attach()
    agents.ask(one, 1)
    longer = [*PROMPT[:16], *[2] * 9]
    reply = agents.ask(one, 2, longer)
    assert reply.claimed == agents.driver.digests("a", PROMPT)
    agents.wait(one, 2, reply.claimed[-DIGEST_BYTES:])
    agents.compute(one, 1)
    assert agents.answers() == [(2, "sealed")]
    assert agents.ask(one, 2, longer).computed == 16
    assert agents.ask(one, 3, longer).claimed == agents.driver.digests("a", longer)[16 // 4 * DIGEST_BYTES :]


def test_tenants_do_not_meet(agents: Agents) -> None:
    """The same tokens of another tenant are neither waited for nor told of."""
    one = agents.driver.attach()
    agents.ask(one, 1, tenant="a")
    reply = agents.ask(one, 2, tenant="b")
    assert (reply.code, reply.claimed) == (m.OK, b"")


@pytest.mark.parametrize("end", ["free", "reclaim", "fence", "stall"])
def test_a_claim_passes_to_exactly_one_waiter(agents: Agents, end: str) -> None:
    """Free, death, fence or no progress of the owner: one waiter is told, the others wait for it, all are served."""
    one, two = agents.driver.attach(), agents.driver.attach()
    agents.ask(one, 1)
    for number in (2, 3, 4):
        agents.ask_and_wait(two, number)
    agents.compute(one, 1, 8)
    match end:
        case "free":
            agents.driver.free(one, 1)
        case "reclaim":
            agents.driver.gone(one)
        case "fence":
            agents.store.fence(one, 0)
        case "stall":
            agents.at(agents.store.state.claims.patience_ms)
    assert agents.answers() == [(2, "yours")]
    assert agents.wait(two, 5, agents.driver.digests("a", PROMPT)[-DIGEST_BYTES:]) is None
    assert agents.ask(two, 2).computed == 8
    assert agents.answers() == []
    agents.compute(two, 2)
    assert agents.answers() == [(3, "sealed"), (4, "sealed"), (5, "sealed")]


def test_a_slow_owner_that_seals_after_all_serves_the_waiters(agents: Agents) -> None:
    """Its claim had passed on, but what it seals is there: nobody computes it a third time."""
    one = agents.driver.attach()
    agents.ask(one, 1)
    agents.ask_and_wait(one, 2)
    agents.ask_and_wait(one, 3)
    agents.at(agents.store.state.claims.patience_ms)
    assert agents.answers() == [(2, "yours")]
    agents.compute(one, 1)
    assert agents.answers() == [(3, "sealed")]
    assert agents.ask(one, 2).computed == 16


def test_an_heir_that_does_not_come_is_passed_over(agents: Agents) -> None:
    """An heir that neither allocates nor leaves loses the claim as any owner does; one that finds no space at once."""
    one = agents.driver.attach()
    agents.ask(one, 1)
    for number in (2, 3, 4):
        agents.ask_and_wait(one, number)
    agents.driver.free(one, 1)
    assert agents.answers() == [(2, "yours")]
    agents.at(agents.store.state.claims.patience_ms)
    assert agents.answers() == [(3, "yours")]
    assert agents.ask(one, 9, [7] * 4 * 60).code == m.OK
    assert agents.ask(one, 3).code == m.NO_SPACE
    assert agents.answers() == [(4, "yours")]
    agents.driver.free(one, 9)
    assert agents.ask(one, 2).code == m.CLAIMED


def test_the_most_urgent_waiter_inherits(agents: Agents) -> None:
    """The lowest number goes first, whatever the order of waiting; the owner is told of it once, in its next step."""
    one, two = agents.driver.attach(), agents.driver.attach()
    agents.ask(one, 1, priority=5)
    for number, priority in ((2, 7), (3, 1), (4, 1), (5, 3)):
        agents.ask_and_wait(two, number, priority=priority)
    assert list(unpack_rows(agents.store.step(one, m.Step()).priorities, 2)) == [(1, 1)]
    assert agents.store.step(one, m.Step()).priorities == b""
    agents.driver.free(one, 1)
    assert agents.answers() == [(3, "yours")]
    assert agents.ask(two, 3, priority=1).code == m.OK
    assert agents.store.step(two, m.Step()).priorities == b""


def test_a_shorter_heir_takes_the_others_along(agents: Agents) -> None:
    """Waiters for more than the heir computes are answered where it ends, and go on from there."""
    one = agents.driver.attach()
    agents.ask(one, 1)
    agents.ask_and_wait(one, 2, PROMPT[:9])
    agents.ask_and_wait(one, 3)
    agents.driver.free(one, 1)
    assert agents.answers() == [(2, "yours")]
    agents.ask(one, 2, PROMPT[:9])
    agents.compute(one, 2)
    assert agents.answers() == [(3, "sealed")]
    assert agents.ask(one, 3).computed == 8


def test_waits_end_at_their_deadline_and_with_their_sequence(agents: Agents) -> None:
    """A passed deadline, a free of the waiting number and the end of the session each end the wait, once."""
    one, two = agents.driver.attach(), agents.driver.attach()
    agents.store.state.claims.patience_ms = 1 << 40
    agents.ask(one, 1)
    agents.ask_and_wait(two, 2)
    agents.at(60 * SECOND)
    assert agents.answers() == [(2, "deadline")]
    agents.ask_and_wait(two, 3)
    assert agents.driver.free(two, 3) == [m.OK]
    assert agents.driver.free(two, 3) == [m.NO_SUCH]
    assert agents.answers() == [(3, "deadline")]
    agents.ask_and_wait(two, 4)
    agents.store.fence(two, 0)
    assert agents.answers() == [(4, "stale")]


def test_a_late_wait_is_answered_at_once(agents: Agents) -> None:
    """What was sealed, or given up, between the two messages is told in reply; a repeated wait has one answer."""
    one = agents.driver.attach()
    agents.ask(one, 1)
    last = agents.ask(one, 2).claimed[-DIGEST_BYTES:]
    assert agents.wait(one, 2, last) is None
    assert agents.wait(one, 2, last) is None
    agents.compute(one, 1)
    assert agents.answers() == [(2, "sealed")]
    assert agents.wait(one, 2, last) == "sealed"
    assert agents.wait(one, 3, bytes([9]) * 32) == "yours"


def test_a_pending_publication_is_computed_once() -> None:
    """Two tenants that begin with it: the second waits for the publication, not for the other's private chain."""
    agents = Agents(publications={"p": [5] * 6})
    one = agents.driver.attach()
    assert agents.ask(one, 1, [5] * 6 + [6] * 9, publication="p").code == m.OK
    reply = agents.ask(one, 2, [5] * 6 + [7] * 9, tenant="b", publication="p")
    assert (reply.code, reply.claimed) == (m.CLAIMED, b"")
    assert agents.wait(one, 2, publication="p") is None
    assert agents.driver.write(one, 1, 6) == m.OK
    assert agents.answers() == [(2, "sealed")]
    assert agents.ask(one, 2, [5] * 6 + [7] * 9, tenant="b", publication="p").computed == 6
    assert agents.wait(one, 3, publication="p") == "sealed"
    assert agents.wait(one, 3, publication="gone") == "yours"


def test_a_claim_on_a_publication_is_not_one_on_its_successor() -> None:
    """Another prompt under the id: who waited is told to ask again, a late wait too; the new one is claimed anew."""
    agents = Agents(publications={"p": [5] * 6})
    one, state = agents.driver.attach(), agents.store.state
    assert agents.ask(one, 1, [5] * 6 + [6] * 9, publication="p").code == m.OK
    for number in (2, 3):
        assert agents.ask(one, number, [5] * 6 + [7] * 9, tenant="b", publication="p").code == m.CLAIMED
    assert agents.wait(one, 2, publication="p") is None
    publishing.publish(state, "p", "public", pack_u32([4] * 6))
    agents.store.check_invariants()
    assert agents.answers() == [(2, "sealed")]
    new = state.publications.get("p")
    assert new is not None
    fresh = m.Allocate(9, "b", 7, publication="p", publication_generation=new.generation, may_wait=1)
    assert agents.store.allocate(one, fresh).code == m.OK
    assert agents.wait(one, 3, publication="p") == "yours", "of the generation that was"
    assert agents.store.wait(one, m.Wait(4, b"", "p", 0, new.generation), Ticket(b"x", 4), 1 << 40) is None
    agents.driver.free(one, 1)
    assert agents.answers() == [], "the old owner's end is nobody's turn"
    agents.store.check_invariants()


def test_what_was_sealed_behind_a_publication_hides_no_missing_beginning() -> None:
    """The publication is gone, blocks behind it are there: whoever computes the beginning claims it, alone."""
    agents = Agents(publications={"p": [1] * 8})
    one, state = agents.driver.attach(), agents.store.state
    assert agents.ask(one, 1, publication="p").code == m.OK
    agents.compute(one, 1)
    record = state.publications.get("p")
    assert record is not None
    publishing.unpublish(state, record)
    agents.driver.free(one, 1)
    digests = agents.driver.digests("a", PROMPT)
    assert [state.index.find(digest) is None for digest in split(digests)] == [True, True, False, False]
    assert agents.ask(one, 2).code == m.OK
    reply = agents.ask(one, 3)
    assert (reply.code, reply.computed, reply.claimed) == (m.CLAIMED, 0, digests[: 2 * DIGEST_BYTES])
    agents.compute(one, 2, 8)
    assert agents.ask(one, 3).computed == 16


def test_a_number_in_use_keeps_its_claim(agents: Agents) -> None:
    """A second allocate of a live sequence is refused and takes nothing from it."""
    one = agents.driver.attach()
    agents.ask(one, 1)
    assert agents.ask(one, 1, [9] * 9).code == m.CONFLICT
    assert agents.ask(one, 2).code == m.CLAIMED


def test_many_waiters_of_one_prompt_cost_one_seal_each_block(agents: Agents) -> None:
    """Two hundred sequences in four sessions: four blocks are sealed once, and nobody holds a copy."""
    agents = Agents(blocks=256)
    sessions = [agents.driver.attach() for _ in range(4)]
    assert agents.ask(sessions[0], 0).code == m.OK
    for number in range(1, 200):
        agents.ask_and_wait(sessions[number % 4], number)
    agents.compute(sessions[0], 0)
    assert sorted(agents.answers()) == [(number, "sealed") for number in range(1, 200)]
    assert all(agents.ask(sessions[number % 4], number).computed == 16 for number in range(1, 200))
    assert (agents.store.counters.seals, agents.store.counters.duplicates) == (4, 0)
    assert agents.store.step(sessions[0], m.Step(releases=pack_u32([0]))).releases == bytes([m.OK])


def test_two_heirs_never_wait_for_each_others_blocks() -> None:
    """Two half-sealed prompts, both owners dead, and no room for the rest of either beside both halves: the first heir
    takes what it needs of the other's half, then the second goes on. Pins of waiters would stop both for good."""
    agents, prompts = Agents(blocks=10), {1: [1] * 33, 2: [2] * 33}
    owners, waiting = {}, agents.driver.attach()
    for number, prompt in prompts.items():
        owners[number] = agents.driver.attach()
        assert agents.ask(owners[number], number, prompt[:17]).code == m.OK
        agents.ask_and_wait(waiting, number, prompt)
    for number, owner in owners.items():
        agents.compute(owner, number, 12)
        agents.driver.gone(owner)
        assert agents.answers() == [(number, "yours")]
    counts = agents.driver.counts()
    assert (counts["cached"], counts["free"]) == (6, 4)
    for number, hit in ((1, 12), (2, 4)):
        reply = agents.ask(waiting, number, prompts[number])
        assert (reply.code, reply.computed) == (m.OK, hit)
        agents.compute(waiting, number, 32)
        agents.driver.free(waiting, number)
    agents.driver.check()
