"""Shares of a cluster's quota: whatever nodes use, and whenever they die or come back, its bound holds."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quire_services.cluster.declarations.records import Change, Record, Records, WriteConflict
from quire_services.cluster.declarations.share_ledger import ShareLedger, Use
from quire_services.cluster.declarations.shares import fair_shares, floor_share, least_shares, most_share

NODES = ["n1", "n2", "n3", "n4"]
LEASE_S = 30.0
T = "acme"


@given(st.integers(1, 10_000), st.dictionaries(st.sampled_from(NODES), st.integers(0, 20_000), min_size=1))
def test_shares_are_the_whole_limit_and_starve_no_node(limit: int, uses: dict[str, int]) -> None:
    """They add up to it exactly; each has its floor; and one that has less than it asks for has as much as any."""
    shares = fair_shares(limit, uses)
    assert set(shares) == set(uses)
    assert sum(shares.values()) == max(limit, len(uses))
    assert min(shares.values()) >= floor_share(limit, len(uses))
    for node, share in shares.items():
        if share < min(limit, 2 * uses[node]):
            assert share >= max(shares.values()) - 1


@given(
    st.integers(1, 10_000),
    st.dictionaries(st.sampled_from(NODES), st.integers(0, 20_000), min_size=1),
    st.lists(st.tuples(st.sampled_from(NODES), st.integers(0, 12_000)), max_size=6),
)
def test_needs_are_met_whole_oldest_first_and_cost_no_node_its_floor(
    limit: int, uses: dict[str, int], needs: list[tuple[str, int]]
) -> None:
    """Shares add up to the limit all the same; the oldest need is met whenever one node can have so much at all."""
    needs = [(node, need) for node, need in needs if node in uses]
    shares, least = fair_shares(limit, uses, needs), least_shares(limit, uses, needs)
    assert sum(shares.values()) == max(limit, len(uses))
    assert min(least.values()) >= floor_share(limit, len(uses))
    assert all(shares[node] >= least[node] for node in uses)
    if needs and needs[0][1] <= most_share(limit, len(uses)):
        assert shares[needs[0][0]] >= needs[0][1]
    for node, got in least.items():
        assert got == floor_share(limit, len(uses)) or (node, got) in needs


def test_a_node_alone_has_all_and_an_idle_one_its_floor() -> None:
    """What one node's flood takes from an idle one leaves it a quarter of an even share."""
    assert fair_shares(1000, {"a": 0}) == {"a": 1000}
    assert fair_shares(1000, {"a": 0, "b": 0}) == {"a": 500, "b": 500}
    assert fair_shares(1000, {"a": 900, "b": 0}) == {"a": 875, "b": 125}
    assert fair_shares(1000, {"a": 900, "b": 800}) == {"a": 500, "b": 500}
    assert fair_shares(0, {}) == {}


class Table:
    """A store's table in memory, with a clock that a test moves."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.now = 1_000_000_000

    def revision(self) -> int:
        return max((record.version for record in self.records.values()), default=0)

    def read(self) -> Records:
        return dict(self.records)

    def write(self, changes: list[Change]) -> int:
        for change in changes:
            found = self.records[change.key].version if change.key in self.records else 0
            if found != change.expected:
                raise WriteConflict(change.key, change.expected, found)
        version = self.now = max(self.now, self.revision() + 1)
        self.records |= {c.key: Record(c.kind, c.name, version, c.value) for c in changes}
        return version


class Cluster(RuleBasedStateMachine):
    """Nodes that beat, are cut off, die and come back, under a limit that an operator changes.

    Held against the bound: limits in force of nodes that reach the store add up to the highest limit that was declared
    since each of them has beaten, not counting a node that has not beaten since the limit was lowered, one that holds
    more than its share, nor the one block of a node without one; of those that are cut off longer than the lease, each
    may have its last limit beside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.limit = 0
        self.ledgers = {node: ShareLedger(self.table, node, LEASE_S) for node in NODES}  # type: ignore[arg-type]
        self.in_force: dict[str, int] = {}
        self.share: dict[str, int] = {}  # what each has written last
        self.held: dict[str, int] = {}
        self.needs: dict[str, int] = {}  # by node, of a request that was too large there
        self.last_beat: dict[str, int] = {}
        self.highest: dict[str, int] = {}  # limit since a node's last beat
        self.stale: set[str] = set()  # those that have not heard of a lower limit yet

    @initialize(limit=st.integers(8, 400))
    def declare(self, limit: int) -> None:
        self.limit = limit

    @rule(limit=st.integers(8, 400))
    def redeclare(self, limit: int) -> None:
        if limit < self.limit:
            self.stale = set(self.in_force)
        self.limit = limit
        self.highest = {node: max(limit, before) for node, before in self.highest.items()}

    @rule(node=st.sampled_from(NODES), part=st.floats(0, 1))
    def use(self, node: str, part: float) -> None:
        if node in self.in_force:
            self.held[node] = int(self.in_force[node] * part)

    @rule(node=st.sampled_from(NODES), need=st.integers(0, 500))
    def refuse(self, node: str, need: int) -> None:
        self.needs[node] = need

    @rule(node=st.sampled_from(NODES), cached=st.booleans())
    def beat(self, node: str, cached: bool) -> None:
        held = self.held.get(node, 0)
        use = Use(held, self.in_force.get(node, 0) - held if cached and node in self.in_force else 0)
        page = self.ledgers[node].beat({T: use}, {}, {T: self.needs[node]} if self.needs.get(node) else {})
        self.last_beat[node] = self.table.now
        lowered: list[int] = []
        share = page.settle(T, self.limit, use, lowered.append)
        if share < self.share.get(node, 0) and lowered:
            assert lowered[-1] == share
        self.share[node], self.in_force[node] = share, max(1, share, held)
        self.highest[node] = self.limit
        self.stale.discard(node)

    @rule(seconds=st.floats(0.1, 40))
    def wait(self, seconds: float) -> None:
        self.table.now += int(seconds * 1_000_000)

    @precondition(lambda self: self.in_force)
    @rule(node=st.sampled_from(NODES))
    def die(self, node: str) -> None:
        for of in (self.in_force, self.share, self.held, self.needs, self.last_beat, self.highest):
            of.pop(node, None)
        self.ledgers[node] = ShareLedger(self.table, node, LEASE_S)  # type: ignore[arg-type]

    @invariant()
    def the_quota_holds_within_its_bound(self) -> None:
        now = self.table.now
        reached = [n for n, at in self.last_beat.items() if now - at <= LEASE_S * 1_000_000 and n not in self.stale]
        within = [node for node in reached if self.in_force[node] == self.share[node]]
        known = max((self.highest[node] for node in reached), default=0)
        assert sum(self.share[node] for node in reached) <= known
        assert sum(self.in_force[node] for node in within) <= known


TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def beat_all(
    ledgers: dict[str, ShareLedger], uses: dict[str, Use], limit: int, needs: dict[str, int] | None = None
) -> dict[str, int]:
    shares = {}
    for node, ledger in ledgers.items():
        page = ledger.beat({T: uses[node]}, {}, {T: needs[node]} if needs and node in needs else {})
        shares[node] = page.settle(T, limit, uses[node], lambda _: None)
    return shares


def test_shares_go_to_where_they_are_used_in_a_few_beats() -> None:
    """From even shares to all but the floor, and to a node that joins, while the sum never leaves the limit."""
    table = Table()
    ledgers = {node: ShareLedger(table, node) for node in NODES[:2]}  # type: ignore[arg-type]
    even = beat_all(ledgers, {"n1": Use(), "n2": Use()}, 800)
    even = beat_all(ledgers, {"n1": Use(), "n2": Use()}, 800)
    assert sum(even.values()) <= 800
    for _ in range(6):
        moved = beat_all(ledgers, {"n1": Use(cached=700), "n2": Use()}, 800)
        assert sum(moved.values()) <= 800
    assert moved == {"n1": 700, "n2": 100}

    ledgers["n3"] = ShareLedger(table, "n3")  # type: ignore[arg-type]
    for _ in range(3):
        joined = beat_all(ledgers, {"n1": Use(cached=700), "n2": Use(), "n3": Use()}, 800)
        assert sum(joined.values()) <= 800
    assert joined["n3"] >= floor_share(800, 3)


def test_a_request_that_was_too_large_takes_cache_from_other_nodes() -> None:
    """In three beats and within the limit, the oldest need first, the next when that has lapsed; what runs is left."""
    table = Table()
    ledgers = {node: ShareLedger(table, node) for node in NODES[:2]}  # type: ignore[arg-type]
    full = {"n1": Use(cached=400), "n2": Use(cached=400)}

    def beats(uses: dict[str, Use], needs: dict[str, int]) -> dict[str, int]:
        for _ in range(3):
            shares = beat_all(ledgers, uses, 800, needs)
            assert sum(shares.values()) <= 800
        return shares

    assert beats(full, {}) == {"n1": 400, "n2": 400}
    assert beats(full, {"n1": 405})["n1"] >= 405  # a step that is too small for a share that follows use
    assert beats(full, {"n1": 600})["n1"] >= 600
    assert beats(full, {"n1": 600, "n2": 600})["n1"] >= 600
    assert beats(full, {"n2": 600})["n2"] >= 600
    beats(full, {})
    busy = {"n1": Use(cached=300), "n2": Use(held=400)}
    assert beats(busy, {"n1": 600}) == {"n1": 400, "n2": 400}
    assert beats({**busy, "n2": Use(cached=400)}, {"n1": 600})["n1"] >= 600


def test_a_dead_node_gives_its_share_up_after_the_lease_and_one_that_leaves_at_once() -> None:
    """Not before, as it may live; then the others have all."""
    table = Table()
    ledgers = {node: ShareLedger(table, node, LEASE_S) for node in NODES[:2]}  # type: ignore[arg-type]
    for _ in range(2):
        beat_all(ledgers, {"n1": Use(), "n2": Use()}, 800)
    alone = {"n1": ledgers["n1"]}
    table.now += 20_000_000
    assert beat_all(alone, {"n1": Use()}, 800)["n1"] <= 400
    table.now += 20_000_000
    assert beat_all(alone, {"n1": Use()}, 800) == {"n1": 800}

    beat_all(ledgers, {"n1": Use(), "n2": Use()}, 800)
    beat_all(ledgers, {"n1": Use(), "n2": Use()}, 800)
    ledgers["n2"].leave()
    assert beat_all(alone, {"n1": Use()}, 800) == {"n1": 800}
