"""Bugs planted into quotas, accounts and the scrubbing of blocks that change tenant, as ``planted`` does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quire_kvstore.blocks.charges import Charges
from quire_kvstore.blocks.ids import Ids
from quire_kvstore.ops import admission, allocate, extend, free
from quire_kvstore.ops.admission import Shortage
from quire_kvstore.server import quota
from quire_kvstore.sessions.scrub import ScrubMap
from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.state import State
from quire_kvstore.tenants.quotas import Quota, Quotas
from tests.proofs.planted import Patch


def freed_blocks_stay_charged(patch: pytest.MonkeyPatch) -> None:
    """An account is charged for blocks that it gave back."""

    def freed(self: Charges, ids: Ids) -> None:
        self.owner[ids] = -1

    patch.setattr(Charges, "freed", freed)


def publishing_moves_no_charge(patch: pytest.MonkeyPatch) -> None:
    """A published prompt stays charged to the tenant that computed it."""
    patch.setattr("quire_kvstore.tenants.accounts.Accounts.publish", lambda *_: True)


def pin_budget_not_asked(patch: pytest.MonkeyPatch) -> None:
    """Publications are frozen though what they pin is more than they may."""

    def publish(self: Any, blocks: Ids, domain: int) -> bool:
        self._charges.transferred(blocks, domain)
        return True

    patch.setattr("quire_kvstore.tenants.accounts.Accounts.publish", publish)


def _shortage_of(patch: pytest.MonkeyPatch, quota: Quota) -> None:
    """Space is looked for as if every tenant had some settings in place of its own."""
    real = admission.shortage

    def shortage(state: State, account: int, count: int, shared: Ids) -> Shortage | None:
        kept = state.quotas
        state.quotas = Quotas(state.pool.size)
        state.quotas.active, state.quotas.quarantine_reserve = kept.active, kept.quarantine_reserve
        state.quotas.limit, state.quotas.guarantee = kept.limit.copy(), kept.guarantee.copy()
        if quota.limit:
            state.quotas.limit[:] = quota.limit
        if not quota.guarantee:
            state.quotas.guarantee[:] = 0
        try:
            return real(state, account, count, shared)
        finally:
            state.quotas = kept

    for op in (allocate, extend):
        patch.setattr(op, "shortage", shortage)


def limit_ignored(patch: pytest.MonkeyPatch) -> None:
    """A sequence grows past its tenant's limit."""
    _shortage_of(patch, Quota(limit=1 << 40, guarantee=1))


def others_guarantees_ignored(patch: pytest.MonkeyPatch) -> None:
    """Blocks that another tenant was promised are given away while it does not use them."""
    _shortage_of(patch, Quota())


def guaranteed_cache_evicted(patch: pytest.MonkeyPatch) -> None:
    """Whose cache makes way is decided without regard to guarantees."""
    patch.setattr(Quotas, "protected", lambda _self, _held, cached: np.zeros_like(cached))


def weights_ignored(patch: pytest.MonkeyPatch) -> None:
    """The account with most cache gives way, whatever the weights say."""
    real = Quotas.shares

    def shares(self: Quotas, charges: Charges, count: int) -> list[tuple[int, int]]:
        kept, self.weight = self.weight, np.full_like(self.weight, 100)
        try:
            return real(self, charges, count)
        finally:
            self.weight = kept

    patch.setattr(Quotas, "shares", shares)


def cache_beyond_the_limit_kept(patch: pytest.MonkeyPatch) -> None:
    """A limit counts what is held, and cache is kept on top of it."""
    patch.setattr(admission, "trim", lambda *_: None)
    patch.setattr(quota, "trim", lambda *_: None)


def cache_of_the_dead_untrimmed(patch: pytest.MonkeyPatch) -> None:
    """What comes back from the quarantine is cached beyond the limit of its tenant."""
    patch.setattr(free, "trim_all", lambda _: None)


def quota_not_saved(patch: pytest.MonkeyPatch) -> None:
    """A quota holds until the next start."""
    patch.setattr(quota, "save", lambda *_: None)


def scrub_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A block that changes tenant is granted as it is."""

    def granted(self: ScrubMap, blocks: Ids, sequence: Sequence) -> None:
        self.account[blocks] = sequence.account

    patch.setattr(ScrubMap, "granted", granted)


def scrub_not_told(patch: pytest.MonkeyPatch) -> None:
    """The store knows what must be scrubbed, and an extend does not say so."""
    real = extend.owed

    def owed(sequence: Sequence, fresh: Ids) -> bytes:
        return b"" if sequence.fill else real(sequence, fresh)

    patch.setattr(extend, "owed", owed)


def scrubbed_at_the_grant(patch: pytest.MonkeyPatch) -> None:
    """A block counts as scrubbed when its new owner was told to, though it may die before it does."""
    real = ScrubMap.granted

    def granted(self: ScrubMap, blocks: Ids, sequence: Sequence) -> None:
        real(self, blocks, sequence)
        self.account[blocks] = sequence.account

    patch.setattr(ScrubMap, "granted", granted)


QUOTA_BUGS: list[Patch] = [
    freed_blocks_stay_charged,
    publishing_moves_no_charge,
    pin_budget_not_asked,
    limit_ignored,
    others_guarantees_ignored,
    guaranteed_cache_evicted,
    weights_ignored,
    cache_beyond_the_limit_kept,
    cache_of_the_dead_untrimmed,
    quota_not_saved,
    scrub_forgotten,
    scrub_not_told,
    scrubbed_at_the_grant,
]
