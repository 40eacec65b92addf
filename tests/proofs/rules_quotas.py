"""Rules of quotas: tenants get limits, guarantees and weights while they run, and lose them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from quire_proto.messages.tenants import SetQuota
from quire_proto.wire.envelope import Reply
from tests.proofs.engine import Branch, Engine
from tests.proofs.model_publications import PublishingModel
from tests.proofs.model_quotas import Quota
from tests.proofs.rules_sequences import BEGINNINGS, PICK
from tests.proofs.world import World


class QuotaRules:
    """What the operator promises."""

    world: World
    model: PublishingModel
    administer: Callable[[str, Any], Reply]
    active: Callable[[], list[Engine]]
    do_allocate: Callable[..., None]
    finish: Callable[[Engine, int, Branch, int], None]
    give_up: Callable[[Engine, int], None]
    fall_silent: Callable[[int], None]
    die: Callable[[int], None]
    engines: list[Engine]
    next_number: int
    quotas: bool

    @initialize(quotas=st.booleans())
    def decide(self, quotas: bool) -> None:
        """Half of all runs know no quotas: they go other ways through the store, and are held up less."""
        self.quotas = quotas

    @precondition(lambda self: self.quotas)
    @rule(
        tenant=st.sampled_from("ab"), limit=st.sampled_from([0, 4, 8, 12]),
        guarantee=st.sampled_from([0, 3, 6, 8]), weight=st.sampled_from([20, 100, 500]),
    )  # fmt: skip
    def set_quota(self, tenant: str, limit: int, guarantee: int, weight: int) -> None:
        """Accepted if it can be kept from now on; cache beyond a limit goes at once."""
        quota = Quota(limit, guarantee, weight)
        accepted = self.model.promises.accepts(tenant, quota, self.model.counts([]).held[tenant])
        reply = self.administer("quota", SetQuota(tenant, limit, guarantee, weight))
        assert reply.code == ("" if accepted else "CONFLICT")
        if accepted:
            self.model.promises.quotas[tenant] = quota
            self.model.trimmed(self.world.store)

    def flood(self, engine: Engine, tenant: str, begin: list[int]) -> None:
        """One tenant fills the cache with requests of its own."""
        for i in range(4):
            self.do_allocate(engine, tenant, [*begin, i % 2, i // 2, 0, 1], 0, None)
            number = self.next_number
            if number in engine.branches:
                self.finish(engine, number, engine.branches[number], 0)
                self.give_up(engine, number)

    @precondition(lambda self: self.quotas and self.active())
    @rule(
        peer=PICK, tenant=st.sampled_from("ab"), begin=BEGINNINGS,
        limit=st.sampled_from([0, 12]), guarantee=st.sampled_from([0, 6, 8]), weight=st.sampled_from([20, 100, 500]),
    )  # fmt: skip
    def crowd_out(self, peer: int, tenant: str, begin: list[int], limit: int, guarantee: int, weight: int) -> None:
        """A tenant has cache and promises; then another one wants all there is."""
        self.set_quota(tenant, limit, guarantee, weight)
        engine = self.active()[peer % len(self.active())]
        for account in sorted("ab", reverse=tenant == "b"):
            self.flood(engine, account, begin)

    @precondition(lambda self: self.quotas and len(self.active()) > 1)
    @rule(tenant=st.sampled_from("ab"), begin=BEGINNINGS)
    def come_back_beyond_the_limit(self, tenant: str, begin: list[int]) -> None:
        """A process is fenced with a tenant's blocks, the tenant fills its limit anew, and then it dies."""
        silent, other = self.active()[:2]
        self.do_allocate(silent, tenant, [*begin, 1, 1], 0, None)
        number = self.next_number
        if number in silent.branches:
            self.finish(silent, number, silent.branches[number], 0)
        self.set_quota(tenant, 8, 0, 100)
        self.fall_silent(self.engines.index(silent))
        if other in self.active():
            self.flood(other, tenant, begin)
        if silent in self.engines:
            self.die(self.engines.index(silent))
