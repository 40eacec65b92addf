"""Random lives of a scheduler with several tenants: no tenant starves, whatever the others ask, give up or lack."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.support.bare_loop import BUDGET, Loop

TENANTS = st.sampled_from("abcd")
LEAST, MOST = 50, 400  # weights
# Two that want work are never further apart than one piece of it, each by its weight: a tenant of the least weight
# waits while each of the three others, of the most, is given the worth of its last piece, and one of its own.
UNSERVED_TOKENS = 3 * BUDGET * (MOST // LEAST + 1)
AT_LAST = 3000  # steps, many times what all that is asked for takes


class Tenants(RuleBasedStateMachine):
    """A loop of eight slots under random requests of four tenants."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.without = Counter[str]()  # tokens that others were given while a tenant waited and got nothing
        self.gave_up = set[str]()  # tenants that a shortage took blocks from, until they are served again

    @rule(tenant=TENANTS, weight=st.integers(LEAST, MOST))
    def weigh(self, tenant: str, weight: int) -> None:
        """An operator changes a weight."""
        self.loop.scheduler.shares.weigh(tenant, weight)

    @rule(
        tenant=TENANTS,
        count=st.integers(1, 12),
        prompt=st.integers(1, 80),
        answer=st.integers(1, 40),
        n=st.integers(1, 9),
    )
    def ask(self, tenant: str, count: int, prompt: int, answer: int, n: int) -> None:
        """Some requests of one kind."""
        for _ in range(count):
            self.loop.ask(tenant, prompt, answer, n=n)

    @rule(which=st.integers(0, 7))
    def abort(self, which: int) -> None:
        """A client hangs up."""
        running = self.loop.scheduler.running
        if running:
            self.loop.scheduler.remove(running[which % len(running)])

    @rule(which=st.integers(0, 7))
    def lack(self, which: int) -> None:
        """There is no block for a running sequence."""
        scheduler = self.loop.scheduler
        if len(scheduler.running) > 1:
            oldest = min(scheduler.running, key=lambda s: s.arrival)
            several = len({s.request.tenant for s in scheduler.running}) > 1
            gave = scheduler.starved(scheduler.running[which % len(scheduler.running)], scheduler.plan({}, False))
            assert gave is not None
            assert not (several and gave is oldest)
            gave.drop_blocks()
            self.gave_up.add(gave.request.tenant)

    @rule(steps=st.integers(1, 30))
    def step(self, steps: int) -> None:
        """Some steps; a tenant that waits is served soon, unless it lost its blocks or admissions are held for them."""
        for _ in range(steps):
            held, before = self.loop.holds, self.loop.work.copy()
            self.loop.step()
            served = self.loop.work - before
            for tenant in "abcd":
                if served[tenant]:
                    self.gave_up.discard(tenant)
                waits = bool(self.loop.scheduler.waiting.of(tenant)) and not served[tenant] and not held
                waits = waits and tenant not in self.gave_up
                self.without[tenant] = self.without[tenant] + served.total() if waits else 0
                assert self.without[tenant] <= UNSERVED_TOKENS, tenant

    def teardown(self) -> None:
        """All comes to an end, and no tenant is remembered as wanting work."""
        for _ in range(AT_LAST):
            if not self.loop.scheduler.running and not self.loop.scheduler.waiting:
                return
            self.loop.step()
        pytest.fail("it does not end")


TestTenants = Tenants.TestCase
TestTenants.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
