"""The machine: engines, tenants, crashes, the clock and the wire against the real store, judged by the naive model.

After every step the store's own invariants hold, the model agrees with all of its state, and every engine finds exactly
its own content in what it may read. A feature that adds operations adds a mixin of rules and, where replies change, a
few lines to the model; this file puts them together.
"""

from __future__ import annotations

import sys

from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests.proofs.documents import Documents
from tests.proofs.model_quotas import Promises
from tests.proofs.model_sharing import Sharing
from tests.proofs.rules_claims import ClaimRules
from tests.proofs.rules_lives import LifeRules
from tests.proofs.rules_publications import PublishingRules
from tests.proofs.rules_quotas import QuotaRules
from tests.proofs.rules_sessions import SessionRules
from tests.proofs.rules_wire import WireRules
from tests.proofs.world import PUBLISHED, SIZE, World

PINS, RESERVE = 6, 2


class StoreMachine(LifeRules, PublishingRules, QuotaRules, ClaimRules, SessionRules, WireRules, RuleBasedStateMachine):
    """All rules over one small pool."""

    policy = "lru"
    blocks = 20
    steps = 0  # of all runs, counted by the invariant

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.blocks, self.policy, Documents(), (PINS, RESERVE))
        self.next_number = self.tickets = 0
        self.begin(Sharing(SIZE, PINS, {"p": PUBLISHED}), Promises(self.blocks, PINS, RESERVE))

    @invariant()
    def everything_holds(self) -> None:
        """The nine invariants, the model, the content."""
        type(self).steps += 1
        self.world.store.check_invariants()
        self.hear()
        self.model.compare(self.world.store)
        for engine in self.active():
            engine.check()

    def teardown(self) -> None:
        """When all are dead, only publications and cache are left. A run that has failed already is left alone."""
        if sys.exception() is not None:
            return
        for engine in self.engines:
            references = self.model.gone(engine.id)
            assert self.world.died(engine.id) == references, "references that come back"
            self.model.trimmed(self.world.store)
        self.everything_holds()
        pinned = {block for table in self.model.sharing.tables() for block in table}
        assert self.world.store.state.pool.counts()["held"] == len(pinned)
