"""Quotas: weights, policies, exact shares; what a tenant may rely on stands in tests/scenarios/quotas."""

from __future__ import annotations

import numpy as np
import pytest

from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.ops import publish
from quire_kvstore.server.quota import declare
from quire_kvstore.sessions.session import Session
from quire_kvstore.tenants.quotas import Quota, level
from quire_proto import messages as m
from quire_proto.messages.tenants import SetQuota
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.support.driver import Driver
from tests.support.service import BareService

SIZE = 4


class Pool:
    """Tenants that hold and cache blocks of a pool; prompts of one tenant share nothing."""

    def __init__(self, blocks: int, policy: str = "lru", **quotas: Quota) -> None:
        self.driver = Driver(blocks, SIZE, policy=make_policy(policy, blocks))
        self.driver.store.state.quotas.pin_budget = 0
        self.session: Session = self.driver.attach()
        self.next = 0
        for name, quota in quotas.items():
            assert not self.driver.store.state.quotas.problem(None, quota)
            declare(self.driver.store.state, name, quota)

    def ask(self, tenant: str, blocks: int) -> m.Allocated:
        """A sequence of so many new blocks, written and sealed if there is space."""
        self.next += 1
        tokens = [1000 * self.next + i for i in range(blocks * SIZE)]
        reply = self.driver.allocate(self.session, self.next, tokens, tenant)
        if reply.code == m.OK:
            assert self.driver.write(self.session, self.next, len(tokens)) == m.OK
            assert self.driver.seal(self.session, self.next).code == m.OK
        self.driver.check()
        return reply

    def hold(self, tenant: str, blocks: int) -> int:
        """A sequence that stays."""
        assert self.ask(tenant, blocks).code == m.OK
        return self.next

    def cache(self, tenant: str, *blocks: int) -> None:
        """Sequences that end and leave cache."""
        for count in blocks:
            self.driver.free(self.session, self.hold(tenant, count))
        self.driver.check()

    def cached(self, tenant: str) -> int:
        """Cached blocks of a tenant."""
        state = self.driver.store.state
        return int(state.charges.cached[state.accounts.number(tenant)])


def test_the_weight_decides_who_loses_cache_beyond_guarantees() -> None:
    """Of two tenants the one with more blocks above its guarantee per weight loses first."""
    pool = Pool(40, a=Quota(guarantee=4, weight=300), b=Quota(weight=100))
    pool.cache("a", *[2] * 10)
    pool.cache("b", *[2] * 10)
    pool.cache("c", *[2] * 10)

    # Above the guarantee are 36 blocks, shared as 300 : 100 : 100 by a, b and those without a quota; a asks for less.
    assert pool.cached("a") == 20
    assert pool.cached("b") == pytest.approx(10, abs=2)
    assert pool.cached("c") == pytest.approx(10, abs=2)
    pool.cache("a", *[2] * 10)
    assert pool.cached("a") == pytest.approx(4 + 36 * 3 / 5, abs=2)
    assert pool.cached("b") == pytest.approx(36 / 5, abs=2)


def test_lru_and_density_keep_groups_apart() -> None:
    """Both policies evict only from the account that has to give, its oldest first."""
    for policy in ("lru", "density"):
        pool = Pool(16, policy, a=Quota(guarantee=8))
        pool.cache("b", 4)
        pool.cache("a", 4, 4)
        pool.cache("b", 4)
        pool.hold("c", 6)
        assert (pool.cached("a"), pool.cached("b")) == (8, 2), policy


def test_a_quota_on_a_running_pool_regroups_its_cache() -> None:
    """Blocks cached before the quota was declared are protected, and found, from then on."""
    for policy in ("lru", "density"):
        pool = Pool(16, policy)
        pool.cache("a", 4)
        pool.cache("b", 4)
        declare(pool.driver.store.state, "a", Quota(guarantee=4))
        pool.driver.check()
        pool.hold("b", 12)
        assert (pool.cached("a"), pool.cached("b")) == (4, 0), policy


def test_publishing_moves_the_charge_or_refuses() -> None:
    """What a publication pins is its domain's; beyond the pin budget it stays pending, and its blocks the tenant's."""
    for budget, owner in ((3, "(public)"), (2, "a")):
        driver = Driver(16, SIZE, {"p": list(range(10))})
        driver.store.state.quotas.pin_budget = budget
        session = driver.attach()
        driver.allocate(session, 1, list(range(12)), "a", publication="p")
        driver.write(session, 1, 12)
        driver.check()
        [record] = driver.store.state.publications.all()
        state = driver.store.state
        assert (record.table is not None) is (owner == "(public)")
        assert state.charges.held[state.accounts.number(owner)] == 3


def test_a_refused_guarantee_says_what_can_be_guaranteed() -> None:
    """What the pool has beside other guarantees, the pin budget and the reserve."""
    wire = BareService(blocks=64)
    wire.store.state.quotas.pin_budget, wire.store.state.quotas.quarantine_reserve = 32, 4
    assert wire.ask("quota", 0, SetQuota("a", guarantee=20)).code == ""
    over = wire.ask("quota", 0, SetQuota("b", guarantee=9))
    assert over.code == "CONFLICT"
    assert "8 blocks can be guaranteed" in over.body["message"]


def test_levels_are_exact_to_a_block() -> None:
    """Shares add up, respect what each can give, and leave the highest as low as possible."""
    rng = np.random.default_rng(4)
    for _ in range(300):
        groups = int(rng.integers(1, 7))
        free = rng.integers(0, 50, groups)
        above = free + rng.integers(0, 20, groups)
        weight = rng.integers(1, 400, groups)
        count = int(rng.integers(0, free.sum() + 1))
        taken = level(above, weight, free, count)

        assert taken.sum() == count
        assert (taken >= 0).all()
        assert (taken <= free).all()
        heights = (above - taken) / weight
        givers, takers = np.flatnonzero(taken > 0), np.flatnonzero(taken < free)
        for giver in givers:
            for other in takers:
                # A block less here and one more there would not help.
                assert heights[other] <= heights[giver] + 1 / weight[giver] + 1 / weight[other] + 1e-6


@pytest.mark.parametrize("policy", ["lru", "density"])
def test_cache_that_goes_with_a_publications_tail_is_not_asked_for_again(policy: str) -> None:
    """Blocks behind a frozen tail are another account's: they go with it, and their share is paid by that."""
    driver = Driver(8, SIZE, {"p": [1] * 6}, make_policy(policy, 8))
    state, session = driver.store.state, driver.attach()
    declare(state, "a", Quota(limit=8))
    tokens = [1] * 6 + [2] * 6
    assert driver.allocate(session, 1, tokens, "a", "p").code == m.OK
    assert (driver.write(session, 1, len(tokens)), driver.seal(session, 1).code) == (m.OK, m.OK)
    record = state.publications.get("p")
    assert record is not None
    publish.unpublish(state, record)
    driver.free(session, 1)
    assert (driver.counts()["cached"], state.charges.cached.tolist()[:2]) == (2, [1, 1])
    assert driver.allocate(session, 2, [9] * 32, "b").code == m.OK
    driver.check()


def test_a_mark_that_stays_where_it_is_proves_no_scrub() -> None:
    """The target of a copy counts as another's content until something new was written to it."""
    driver = Driver(4, SIZE)
    session = driver.attach()
    assert driver.allocate(session, 1, [7] * 16, "b").code == m.OK
    driver.write(session, 1, 16)
    driver.free(session, 1)
    assert driver.allocate(session, 2, [1] * 5, "a").code == m.OK
    driver.write(session, 2, 5)
    driver.fork(session, 2, 3, 5)
    target = unpack_u32(driver.extend(session, 3, 6).scrub)
    assert len(target) == 1

    reply = driver.store.step(session, m.Step(fills=pack_u32([3, 5])))
    assert reply.fills == bytes([m.OK])
    used = set(driver.sequence(session, 2).table.tolist())
    driver.gone(session)

    again = driver.allocate(driver.attach(), 1, [2] * 16, "a")
    assert set(unpack_u32(again.scrub)) == {0, 1, 2, 3} - used
    assert set(target) <= set(unpack_u32(again.scrub))
