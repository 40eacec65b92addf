"""The store's state machine with quotas that come and go, and engines that scrub: accounts and contents hold."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from tests.kvstore.test_machine import BLOCKS, PUBLISHED, SIZE, StoreMachine
from tests.support.scrubbing_driver import ScrubbingDriver

from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.ops.admission import trim
from quire_kvstore.server.quota import declare
from quire_kvstore.sessions.session import Session
from quire_kvstore.tenants.quotas import Quota
from quire_proto import messages as m


class QuotaMachine(StoreMachine):
    """All the rules of the store; tenants get limits, guarantees and weights while they run."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = ScrubbingDriver(BLOCKS, SIZE, {"p": PUBLISHED}, make_policy(self.policy, BLOCKS))
        self.driver.store.state.quotas.pin_budget = self.driver.store.state.quotas.quarantine_reserve = 3
        self.driver.attach(100)
        self.driver.attach(100)

    @rule(
        tenant=st.sampled_from("ab"),
        limit=st.sampled_from([0, 4, 8, 12]),
        guarantee=st.sampled_from([0, 3, 6, 8]),
        weight=st.sampled_from([50, 100, 300]),
    )
    def set_quota(self, tenant: str, limit: int, guarantee: int, weight: int) -> None:
        """As the op does it."""
        state, quota = self.driver.store.state, Quota(limit, guarantee, weight)
        account = state.accounts.number(tenant)
        if not state.quotas.problem(account, quota) and not 0 < limit < state.charges.held[account]:
            declare(state, tenant, quota)
            trim(state, account)

    def seal_one(self, session: Session, number: int, swap: bool) -> None:
        """A canonical block in quarantine is not pinned beyond its tenant's limit."""
        if not session.sequences[number].chained:
            super().seal_one(session, number, swap)
            return
        before, reply = self.snapshot(), self.driver.seal(session, number, swap)
        assert reply.code == m.OK or (reply.code == m.NO_SPACE and self.snapshot() == before)

    @rule(tenant=st.sampled_from("ab"), count=st.integers(1, 6))
    def others_leave_guaranteed_cache_alone(self, tenant: str, count: int) -> None:
        """Whatever one tenant is given, the other keeps its cache up to its guarantee."""
        state = self.driver.store.state
        other = state.accounts.number("b" if tenant == "a" else "a")
        before, quota = state.charges.charged(other), state.quotas.get(other)
        held, session = int(state.charges.held[other]), self.sessions()[0] if self.sessions() else self.driver.attach()
        tokens = [self.next_number * 100 + i for i in range(2, 2 + count * SIZE)]
        reply = self.driver.allocate(session, self.number(), tokens, tenant)
        assert state.charges.charged(other) >= min(before, max(quota.guarantee, held))
        if reply.code == m.NO_SPACE and reply.account:
            assert reply.account == tenant

    @invariant()
    def groups_of_the_policy_are_the_books(self) -> None:
        """The policy finds all cached blocks of an account in its group, and no others."""
        state = self.driver.store.state
        for number in range(len(state.accounts)):
            group = int(state.charges.group_of[number])
            members = [i for i in range(len(state.accounts)) if state.charges.group_of[i] == group]
            cached = sum(int(state.charges.cached[i]) for i in members)
            assert sum(state.charges.groups[block] == group for block in state.pool.policy.cached()) == cached


class DensityQuotaMachine(QuotaMachine):
    """The same, evicting by density."""

    policy = "density"


SETTINGS = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestQuotas = QuotaMachine.TestCase
TestQuotas.settings = SETTINGS
TestDensityQuotas = DensityQuotaMachine.TestCase
TestDensityQuotas.settings = SETTINGS
