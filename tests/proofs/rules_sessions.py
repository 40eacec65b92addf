"""Rules of sessions: attach, time, leases, fences, zombies, death, detach, and a kvstore that starts anew."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from quire_proto import messages as m
from tests.proofs.engine import Engine
from tests.proofs.model import Holder
from tests.proofs.model_claims import PATIENCE_MS
from tests.proofs.model_publications import PublishingModel
from tests.proofs.model_quotas import Promises
from tests.proofs.model_sharing import Sharing
from tests.proofs.rules_claims import Asked
from tests.proofs.rules_sequences import PICK
from tests.proofs.world import LEASE_MS, SIZE, World


class SessionRules:
    """What processes, the clock and the machine do."""

    world: World
    model: PublishingModel
    engines: list[Engine]
    asked: list[Asked]

    def begin(self, sharing: Sharing, promises: Promises) -> None:
        """An empty kvstore with two engines, and what was declared before."""
        self.engines, self.asked = [], []
        self.model = PublishingModel(SIZE, sharing, promises, self.world.now)
        self.world.store.state.claims.patience_ms = PATIENCE_MS
        self.attach()
        self.attach()

    @precondition(lambda self: len(self.engines) < 3)
    @rule()
    def attach(self) -> None:
        engine = Engine(self.world)
        self.engines.append(engine)
        self.model.holders[engine.id] = Holder(self.world.now + LEASE_MS)

    @precondition(lambda self: len(self.model.rows()) > 2)
    @rule(peer=PICK, passed=st.integers(10, 60), gap=st.booleans())
    def time_passes(self, peer: int, passed: int, gap: bool) -> None:
        """All but one session beat; or the kvstore stood still, and no session is judged for it."""
        self.pass_time(peer % len(self.engines), passed, gap)

    @precondition(lambda self: any(holder.rows for holder in self.model.holders.values()))
    @rule(peer=PICK)
    def fall_silent(self, peer: int) -> None:
        """One process stops for longer than its lease."""
        silent = self.engines[peer % len(self.engines)]
        for _ in range(2):
            if silent in self.engines:
                self.pass_time(self.engines.index(silent), LEASE_MS // 2, False)

    @precondition(lambda self: any(holder.rows for holder in self.model.holders.values()))
    @rule(leases=st.sampled_from([1, 2, 3, 50, 3000]))
    def stand_still(self, leases: int) -> None:
        """The whole machine stops for some leases, or for minutes: no heartbeat is sent and none is fenced for it."""
        self.pass_time(0, leases * LEASE_MS, True)

    def pass_time(self, silent: int, passed: int, gap: bool) -> None:
        """Time passes, one engine is silent, and leases are judged."""
        self.world.now += passed
        if gap:
            self.world.store.extend_leases(passed)
            for holder in self.model.holders.values():
                holder.lease_until += passed
            self.model.offers = {n: (s, i, t, u + passed) for n, (s, i, t, u) in self.model.offers.items()}
        self.model.thaw(now=self.world.now)
        self.model.passed(self.world.now, passed if gap else 0)
        for engine in [engine for i, engine in enumerate(self.engines) if i != silent]:
            reply = engine.request("heartbeat", m.Heartbeat(engine.step + 1), ordered=False)
            holder = self.model.holders.get(engine.id)
            assert reply.code == ("STALE_SESSION" if holder is None or holder.fenced else "")
            if holder is not None and not holder.fenced:
                holder.lease_until = max(holder.lease_until, self.world.now + LEASE_MS)
        self.world.judge()
        self.model.judge(self.world.now)
        self.engines = [e for e in self.engines if e.id in self.model.holders] or self.engines[:0]
        if not self.engines:
            self.attach()

    def zombies(self) -> list[Engine]:
        """Engines that were fenced and still run."""
        return [e for e in self.engines if self.model.holders[e.id].fenced]

    @precondition(lambda self: self.zombies())
    @rule(peer=PICK)
    def zombie_writes(self, peer: int) -> None:
        """A fenced engine still fills every slot that it was given to write, and no other reads one of them."""
        zombie = self.zombies()[peer % len(self.zombies())]
        for branch in zombie.branches.values():
            first = max(branch.launched, branch.fill)
            for position in range(first, branch.writable):
                self.world.arena.spoil(branch.table[position // SIZE], position % SIZE, branch.tenant)

    @precondition(lambda self: self.zombies())
    @rule(peer=PICK)
    def zombie_works(self, peer: int) -> None:
        """Its device completes what was launched before the fence; what it then says is stale."""
        zombie = self.zombies()[peer % len(self.zombies())]
        while zombie.work:
            zombie.complete()
        assert zombie.request("step", m.Step()).code == "STALE_SESSION"

    @precondition(lambda self: len(self.model.rows()) > 4 and len(self.engines) > 1)
    @rule(peer=PICK)
    def die(self, peer: int) -> None:
        """A process is killed; the kernel says so, and everything it held is back at once."""
        engine = self.engines.pop(peer % len(self.engines))
        assert self.world.died(engine.id) == self.model.gone(engine.id)
        self.model.trimmed(self.world.store)

    @precondition(lambda self: len(self.model.rows()) > 4 and len(self.engines) > 1)
    @rule(peer=PICK)
    def detach(self, peer: int) -> None:
        """A client leaves, fenced or not, after its work completed."""
        engine = self.engines[peer % len(self.engines)]
        while engine.work:
            engine.complete()
        reply = engine.request("detach", m.Empty())
        assert (reply.code, reply.body) == ("", {"references": self.model.gone(engine.id)})
        self.model.trimmed(self.world.store)
        self.engines.remove(engine)

    @precondition(lambda self: len(self.model.rows()) > 5)
    @rule()
    def restart(self) -> None:
        """The kvstore is killed: a new boot, an empty pool, and every session is stale on the next message."""
        old = self.engines
        self.world.boot()
        assert [e.request("step", m.Step()).code for e in old] == ["STALE_SESSION"] * len(old)
        self.model.sharing.restarted()
        self.begin(self.model.sharing, self.model.promises)
