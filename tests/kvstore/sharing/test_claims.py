"""Claims under many waiters; what one may rely on stands in tests/scenarios/claims."""

from __future__ import annotations

from quire_kvstore.sharing.claims import Ticket
from quire_proto import messages as m
from quire_proto.wire.digests import DIGEST_BYTES
from quire_proto.wire.u32 import pack_u32
from tests.support.driver import Driver

PROMPT = [1] * 17  # four full blocks of 4 and a token


def test_many_waiters_of_one_prompt_cost_one_seal_each_block() -> None:
    """Two hundred sequences in four sessions: four blocks are sealed once, and no waiter holds a copy."""
    driver = Driver(blocks=256)
    sessions = [driver.attach() for _ in range(4)]
    assert driver.allocate(sessions[0], 0, PROMPT, may_wait=1).code == m.OK
    for number in range(1, 200):
        session = sessions[number % 4]
        reply = driver.allocate(session, number, PROMPT, may_wait=1)
        assert reply.code == m.CLAIMED
        wait = m.Wait(number, reply.claimed[-DIGEST_BYTES:])
        assert driver.store.wait(session, wait, Ticket(session.name.encode(), number), 60_000) is None
        driver.store.check_invariants()
    assert driver.write(sessions[0], 0, len(PROMPT)) == m.OK
    assert driver.seal(sessions[0], 0).code == m.OK
    driver.store.check_invariants()
    answers = [(ticket.number, state) for ticket, state in driver.store.drain_answers()]
    assert sorted(answers) == [(number, "sealed") for number in range(1, 200)]
    assert all(
        driver.allocate(sessions[number % 4], number, PROMPT, may_wait=1).computed == 16 for number in range(1, 200)
    )
    assert (driver.store.counters.seals, driver.store.counters.duplicates) == (4, 0)
    assert driver.store.step(sessions[0], m.Step(releases=pack_u32([0]))).releases == bytes([m.OK])
