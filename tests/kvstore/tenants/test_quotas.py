"""Quotas: limits, guarantees, weights, and what a refusal says."""

from __future__ import annotations

import numpy as np
import pytest

from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.ops import publish as publishing
from quire_kvstore.server.quota import declare
from quire_kvstore.sessions.session import Session
from quire_kvstore.tenants.quotas import Quota, level
from quire_proto import messages as m
from quire_proto.messages.tenants import SetQuota
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.support.driver import Driver
from tests.support.service import Wire

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
        return int(state.books.cached[state.accounts.number(tenant)])


def test_a_limit_counts_held_and_cached_blocks() -> None:
    """A tenant at its limit loses its own oldest cache, and no one else's, though the pool has free blocks."""
    pool = Pool(32, a=Quota(limit=6))
    pool.cache("b", 4)
    pool.cache("a", 3, 3)
    assert pool.cached("a") == 6

    pool.hold("a", 4)
    assert (pool.cached("a"), pool.cached("b")) == (2, 4)
    assert pool.driver.counts()["free"] == 22


def test_beyond_a_limit_there_is_no_space_for_that_tenant() -> None:
    """The refusal names limit and tenant and changes nothing; others are served."""
    pool = Pool(32, a=Quota(limit=6))
    pool.hold("a", 4)
    reply = pool.ask("a", 3)

    assert (reply.code, reply.missing, reply.scope, reply.account) == (m.NO_SPACE, 1, "limit", "a")
    assert reply.retry_after_ms > 0
    assert pool.ask("b", 20).code == m.OK


def test_what_can_never_fit_is_told_so() -> None:
    """A sequence larger than its tenant's limit, or than what others' guarantees leave, gets 0 ms."""
    pool = Pool(32, a=Quota(limit=6), c=Quota(guarantee=10))

    assert pool.ask("a", 7).retry_after_ms == 0
    late = pool.ask("b", 23)
    assert (late.code, late.scope, late.account, late.retry_after_ms) == (m.NO_SPACE, "guarantees", "b", 0)
    assert pool.ask("b", 22).code == m.OK


def test_an_extend_obeys_the_limit_too() -> None:
    """Growing beyond the limit is refused with the same fields, and the sequence goes on when cache made way."""
    pool = Pool(32, a=Quota(limit=6))
    pool.cache("a", 2)
    number = pool.hold("a", 4)

    assert pool.driver.extend(pool.session, number, 6 * SIZE).code == m.OK
    reply = pool.driver.extend(pool.session, number, 7 * SIZE)
    assert (reply.code, reply.scope, reply.account, reply.retry_after_ms) == (m.NO_SPACE, "limit", "a", 0)
    pool.driver.check()


def test_a_guarantee_keeps_its_cache_from_others() -> None:
    """Another tenant evicts everything but the guaranteed cache, and is then told for whom there is no space."""
    pool = Pool(16, a=Quota(guarantee=6))
    pool.cache("a", 8)
    assert pool.ask("b", 10).code == m.OK
    assert pool.cached("a") == 6

    reply = pool.ask("b", 1)
    assert (reply.code, reply.scope, reply.account) == (m.NO_SPACE, "guarantees", "b")
    assert pool.cached("a") == 6


def test_a_guarantee_can_be_claimed_at_any_time() -> None:
    """Nobody else holds what is guaranteed, even before it was ever used; cache beyond makes way at once."""
    pool = Pool(16, a=Quota(guarantee=6))
    pool.hold("b", 10)
    assert pool.ask("b", 1).code == m.NO_SPACE

    assert pool.ask("a", 6).code == m.OK
    reply = pool.ask("a", 1)
    assert (reply.code, reply.scope, reply.account) == (m.NO_SPACE, "guarantees", "a")


def test_cache_may_use_what_is_guaranteed_to_others_until_they_come() -> None:
    """Guarantees keep nothing idle: the cache of others fills the pool and makes way."""
    pool = Pool(16, a=Quota(guarantee=6), b=Quota(guarantee=2))
    pool.cache("b", 8, 8)
    assert pool.cached("b") == 16

    pool.hold("a", 6)
    assert pool.cached("b") == 10


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


def test_the_quarantine_has_an_account_and_gives_back_within_the_limit() -> None:
    """Fenced blocks leave the tenant's account; when they come back as cache they do not exceed its limit."""
    pool = Pool(32, a=Quota(limit=6))
    pool.hold("a", 6)
    fenced, pool.session = pool.session, pool.driver.attach()
    pool.driver.store.fence(fenced, 0)
    pool.driver.check()
    state = pool.driver.store.state
    assert (state.books.quarantined, state.books.charged(state.accounts.number("a"))) == (6, 0)

    pool.hold("a", 4)
    pool.driver.gone(fenced)
    pool.driver.check()
    assert (state.books.quarantined, pool.cached("a")) == (0, 2)


def test_a_hit_in_quarantine_is_charged_again() -> None:
    """Who shares a fenced session's block is charged for it, and refused if his limit does not allow it."""
    pool = Pool(32, a=Quota(limit=4))
    tokens = list(range(3 * SIZE))
    pool.driver.allocate(pool.session, 1, tokens, "a")
    pool.driver.write(pool.session, 1, len(tokens))
    pool.driver.seal(pool.session, 1)
    fenced, pool.session = pool.session, pool.driver.attach()
    pool.driver.store.fence(fenced, 0)

    reply = pool.driver.allocate(pool.session, 1, [*tokens, 1, 2, 3, 4, 5], "a")
    assert (reply.code, reply.scope, reply.missing) == (m.NO_SPACE, "limit", 1)
    assert pool.driver.allocate(pool.session, 1, [*tokens, 1, 2, 3, 4], "a").computed == len(tokens)
    pool.driver.check()
    pool.driver.gone(fenced)
    pool.driver.check()


def test_a_canonical_block_in_quarantine_is_not_pinned_beyond_the_limit() -> None:
    """A seal that would charge it to a tenant at its limit is refused whole; with a block less held it is done."""
    for limit, code in ((4, m.NO_SPACE), (6, m.OK)):
        pool = Pool(32)
        driver, other = pool.driver, pool.driver.attach()
        prompt = list(range(2 * SIZE))
        driver.allocate(other, 1, prompt, "a")
        driver.allocate(pool.session, 2, prompt, "a", reserve=4 * SIZE)
        assert driver.write(other, 1, 2 * SIZE) == m.OK
        assert driver.seal(other, 1).code == m.OK
        driver.store.fence(other, 0)
        declare(driver.store.state, "a", Quota(limit=limit))
        driver.check()
        assert driver.write(pool.session, 2, 2 * SIZE) == m.OK

        assert driver.seal(pool.session, 2).code == code
        driver.check()


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
        assert state.books.held[state.accounts.number(owner)] == 3


def test_a_quota_that_cannot_be_promised_is_refused() -> None:
    """Guarantees, pin budget and reserve within the pool; a limit not below guarantee or held blocks; exact codes."""
    wire = Wire(blocks=64)
    wire.store.state.quotas.pin_budget, wire.store.state.quotas.quarantine_reserve = 32, 4
    wire.open()
    assert wire.ask("quota", 0, SetQuota("a", guarantee=20)).code == ""
    over = wire.ask("quota", 0, SetQuota("b", guarantee=9))
    assert over.code == "CONFLICT"
    assert "8 blocks can be guaranteed" in over.body["message"]
    assert wire.ask("quota", 0, SetQuota("b", guarantee=8)).code == ""
    assert wire.ask("quota", 0, SetQuota("b", limit=4, guarantee=8)).code == "CONFLICT"
    assert wire.ask("quota", 0, SetQuota("b", weight=0)).code == "CONFLICT"
    assert wire.ask("quota", 0, SetQuota("(x)")).code == "BAD_FIELD"
    assert wire.ask("allocate", 2, m.Allocate(1, "c", 20)).body["code"] == m.OK
    held = wire.ask("quota", 0, SetQuota("c", limit=4))
    assert (held.code, held.body["detail"]) == ("CONFLICT", {"held": 5})
    row = wire.ask("quota", 0, SetQuota("c", limit=5, weight=7)).body
    assert (row["held"], row["limit"], row["weight"]) == (5, 5, 7)
    wire.store.check_invariants()


def test_a_lower_limit_evicts_at_once() -> None:
    """The limit holds from the reply on, for what is cached too."""
    wire = Wire(blocks=64)
    wire.open()
    pool = Pool(32)
    pool.cache("a", 6, 6)
    wire.store = pool.driver.store
    wire.service.state = wire.store.state
    assert wire.ask("quota", 0, SetQuota("a", limit=5), session=b"").code == ""
    assert pool.cached("a") == 5
    pool.driver.check()


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
    publishing.unpublish(state, record)
    driver.free(session, 1)
    assert (driver.counts()["cached"], state.books.cached.tolist()[:2]) == (2, [1, 1])
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
