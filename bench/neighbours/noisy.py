"""``quire bench noisy``: what a flooding tenant costs its neighbour, with a guarantee and without.

Drives a real store in virtual time. Tenant ``a`` sends a generated trace; tenant ``b`` sends one of the same kind in
the same time with ten times as many requests. A request is admitted when the store has its blocks, in its tenant's
order; it holds them for as long as its answer takes, and leaves them as cache. What counts is a's hit rate, leading
resident blocks by all blocks of its prompts, and how long its requests wait for space:

    alone        a has the whole pool
    flooded      b is there, too, and nothing is guaranteed
    guaranteed   b is there, and a has its guarantee
    promised     a alone in a pool as large as its guarantee: what the guarantee must be worth at least
"""

from __future__ import annotations

import argparse
import hashlib
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from bench.load.trace_format import Request
from bench.load.traces import KINDS, generate
from bench.report.figures import Report, percentile, say, table
from quire_kv import NO_SPACE, OK, Allocate, Seal, Step
from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.ops import lifecycle
from quire_kvstore.ops.allocate import allocate
from quire_kvstore.ops.free import free
from quire_kvstore.ops.slices import finish
from quire_kvstore.ops.step import step
from quire_kvstore.server.quota import declare
from quire_kvstore.sessions.session import Peer
from quire_kvstore.state import State
from quire_kvstore.tenants.quotas import Quota
from quire_proto.messages import Free
from quire_proto.wire.digests import DIGEST_BYTES, split
from quire_proto.wire.u32 import pack_u32

A, B = "a", "b"
TOKEN_S = 0.02  # an answer's token: how long a request holds its blocks
RESERVE = 0.05  # shares of the pool: quarantine reserve, and pin budget


@dataclass(slots=True)
class Ask:
    """One request: its digests, and when it came."""

    tenant: str
    ts: float
    output: int
    digests: bytes


@dataclass(slots=True)
class Tally:
    """What became of a tenant's requests. ``refused``: those that could never have had their blocks."""

    blocks: int = 0
    hits: int = 0
    requests: int = 0
    refused: int = 0
    waited: list[float] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        """Hits by all blocks asked for."""
        return self.hits / self.blocks if self.blocks else 0.0


def asks(tenant: str, trace: list[Request], span: float) -> list[Ask]:
    """A trace as one tenant's requests, stretched to ``span`` seconds."""
    names: dict[int, bytes] = {}
    stretch = span / trace[-1].ts
    result = []
    for request in trace:
        parent, chain = tenant.encode(), []
        for first, count in request.runs:
            for identity in range(first, first + count):
                if identity not in names:
                    name = hashlib.blake2b(parent + identity.to_bytes(8, "little"), digest_size=DIGEST_BYTES)
                    names[identity] = name.digest()
                parent = names[identity]
                chain.append(parent)
        result.append(Ask(tenant, request.ts * stretch, request.output, b"".join(chain)))
    return result


class Run:
    """A store, and requests that come, wait, are served and end."""

    def __init__(self, blocks: int, policy: str, guarantee: int) -> None:
        self.state = State(blocks, 1, make_policy(policy, blocks))
        quotas = self.state.quotas
        quotas.pin_budget = quotas.quarantine_reserve = int(RESERVE * blocks)
        if guarantee:
            quota = Quota(guarantee=guarantee)
            assert not quotas.problem(None, quota), "a guarantee that the pool can give"
            declare(self.state, A, quota)
        self.session = lifecycle.attach(self.state, bytes(16), bytes(16), "bench", Peer(0, b""), lease_until=1 << 62)
        lifecycle.ready(self.session)
        self.tallies = {A: Tally(), B: Tally()}
        self._waiting: dict[str, deque[Ask]] = {A: deque(), B: deque()}
        self._ends: list[tuple[float, int]] = []
        self._number = 0

    def play(self, arrivals: list[Ask]) -> dict[str, Tally]:
        """Everything until the last request has ended."""
        for ask in sorted(arrivals, key=lambda ask: ask.ts):
            self._until(ask.ts)
            self._waiting[ask.tenant].append(ask)
            self._admit(ask.tenant, ask.ts)
        self._until(float("inf"))
        assert not any(self._waiting.values()), "every request was served or refused"
        return self.tallies

    def _until(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            ended, number = heappop(self._ends)
            self.state.tick(round(ended * 1000))
            finish(free(self.state, self.session, Free(pack_u32([number]))))
            for tenant in (B, A):
                self._admit(tenant, ended)

    def _admit(self, tenant: str, now: float) -> None:
        queue, tally = self._waiting[tenant], self.tallies[tenant]
        while queue:
            ask, number = queue[0], self._number
            blocks = len(ask.digests) // DIGEST_BYTES
            self.state.tick(round(now * 1000))
            wanted = Allocate(number, tenant, blocks + 1, ask.digests)
            reply = finish(allocate(self.state, self.session, wanted))
            if reply.code == NO_SPACE and reply.retry_after_ms:
                return
            queue.popleft()
            tally.requests += 1
            tally.blocks += blocks
            if reply.code != OK:
                tally.refused += 1
                continue
            self._number += 1
            seal = Seal(number, reply.computed, ask.digests[reply.computed * DIGEST_BYTES :])
            finish(step(self.state, self.session, Step(fills=pack_u32((number, blocks)), seals=(seal,))))
            tally.hits += reply.computed
            tally.waited.append(now - ask.ts)
            heappush(self._ends, (now + ask.output * TOKEN_S, number))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--requests", type=int, default=400, help="of tenant a; of agents, whose are long, a quarter")
    parser.add_argument("--rate", type=int, default=10, help="requests of b for each of a's")
    parser.add_argument("--pool", type=float, default=1.0, help="blocks, as a share of the unique blocks of a's trace")
    parser.add_argument("--guarantees", default="0.3,0.6,0.85", help="of a, as shares of the pool")
    parser.add_argument("--policy", default="density")
    parser.add_argument("--seed", type=int, default=1)


def run(arguments: argparse.Namespace) -> Report:
    """Both kinds of traffic, all guarantees."""
    settings = {name: value for name, value in vars(arguments).items() if name not in ("json", "save")}
    report = Report("noisy", settings)
    names = ("traffic", "case", "guarantee", "tenant", "requests", "refused", "hit_percent", "p99_wait_s")
    rows: list[list[object]] = []
    for kind in sorted(KINDS):
        requests = arguments.requests // (4 if kind == "agents" else 1)
        neighbours = Neighbours(kind, requests, arguments.rate, arguments.pool, arguments.policy, arguments.seed)
        say(f"{kind}: {neighbours.blocks} blocks")
        rows += _rows(kind, "alone", None, neighbours.alone())
        rows += _rows(kind, "flooded", None, neighbours.flooded(0))
        for share in map(float, arguments.guarantees.split(",")):
            rows += _rows(kind, "guaranteed", share, neighbours.flooded(share))
            rows += _rows(kind, "promised", share, neighbours.alone(share))
    report.figures["rows"] = [dict(zip(names, row, strict=True)) for row in rows]
    report.tables.append(("Tenant a beside a flood", table(rows, names)))
    report.notes.append(f"Virtual time; an answer's token holds a request's blocks for {TOKEN_S * 1000:.0f} ms.")
    return report


def _rows(kind: str, case: str, share: float | None, tallies: dict[str, Tally]) -> list[list[object]]:
    return [
        [kind, case, share, name, t.requests, t.refused, 100 * t.hit_rate, percentile([0.0, *t.waited], 0.99)]
        for name, t in tallies.items()
        if t.requests
    ]


class Neighbours:
    """Two tenants' requests, and the pool they share: ``pool`` of a's unique blocks, or two of its longest prompts."""

    def __init__(self, kind: str, requests: int, rate: int, pool: float, policy: str, seed: int) -> None:
        trace = generate(kind, requests, seed)
        span = trace[-1].ts
        self._own, self._policy = asks(A, trace, span), policy
        self._flood = asks(B, generate(kind, rate * requests, seed + 1), span)
        self._largest = 1 + max(len(ask.digests) // DIGEST_BYTES for ask in self._own)
        unique = len({name for ask in self._own for name in split(ask.digests)})
        self.blocks = max(int(pool * unique), 2 * self._largest)

    def alone(self, share: float = 1.0) -> dict[str, Tally]:
        """Tenant a in a pool of its own, ``share`` of the whole, its longest prompt at least."""
        return Run(max(int(share * self.blocks), self._largest), self._policy, 0).play(self._own)

    def flooded(self, share: float) -> dict[str, Tally]:
        """Both in one pool, ``share`` of it guaranteed to a (0: nothing)."""
        return Run(self.blocks, self._policy, int(share * self.blocks)).play(self._own + self._flood)
