"""ClusterRun: one run in virtual time. Agents, a router, nodes; some are lost at once, and others follow them.

    agent -> router -> node ... first token ... answer -> agent thinks -> its next turn
                ^------ events, a little later ---'

A lost node's requests go on elsewhere at once, with the tokens that their clients have: what is not cached there is
computed again. After ``replace_s`` a node with nothing in it takes its place and computes what is published.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from math import ceil

import numpy as np

from .clock import VirtualClock
from .nodes.event_stream import Sent
from .nodes.node import Listeners, Node, Pool
from .nodes.service_model import ServiceModel
from .routing.kv_router import KvRouter
from .routing.routers import LeastLoaded, Random, RoundRobin, Router, SessionAffinity
from .traffic import AgentRequest, Conversation, Shape, Traffic

SIMPLE: dict[str, type[Router]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_loaded": LeastLoaded,
    "session_affinity": SessionAffinity,
}
ROUTERS = (*SIMPLE, "kv_aware")
SYSTEM, LATER = "system", "later"  # published prompts: what all begin with, and one that is published while all run


@dataclass(frozen=True, slots=True)
class Setup:
    """What is run.

    Attributes:
        event_s: from a store to the router's index.
        replace_s: from a loss until an empty node takes its place.
        overlap_weight: of the cost of `kv_aware`.
    """

    nodes: int
    router: str
    shape: Shape
    pool: Pool
    model: ServiceModel
    seed: int
    event_s: float = 0.01
    replace_s: float = 15.0
    overlap_weight: float = 1.0

    def make_router(self) -> Router:
        """The router of this run."""
        if self.router in SIMPLE:
            return SIMPLE[self.router](self.nodes, self.seed)
        return KvRouter(self.nodes, self.seed, self.pool.block_size, self.overlap_weight)


@dataclass(frozen=True, slots=True)
class Served:
    """A request that had its first token: when it arrived, how long that took, its prompt, and where it came from."""

    arrival: float
    ttft: float
    prompt: int
    cached: int
    node: int


class ClusterRun:
    """A cluster that has begun.

    Attributes:
        arrived: requests that were sent to the cluster.
        served: those that had their first token, in that order.
        moved: requests that went on elsewhere, because their node was lost.
        gone: what was told by nodes that are no more.
        bytes_in_second: of all event streams, by second.
    """

    def __init__(self, setup: Setup, end: float) -> None:
        self.setup, self.clock = setup, VirtualClock()
        self.router = setup.make_router()
        self.traffic = Traffic(setup.shape, setup.nodes, setup.pool.block_size, setup.seed)
        self.arrived = 0
        self.served: list[Served] = []
        self.moved = 0
        self.gone = Sent()
        self.bytes_in_second: Counter[int] = Counter()
        self._events: deque[tuple[float, int, bytes]] = deque()
        self._held: list[AgentRequest] = []
        self._published = {SYSTEM: self.traffic.published}
        self._arrivals = self.traffic.conversations(end)
        self._losses = np.random.default_rng((setup.seed, 5))
        self.nodes = [self._start(number) for number in range(setup.nodes)]
        self._next_conversation()

    # --- what a bench does with it ------------------------------------------------------------------------------

    def run(self, end: float) -> None:
        """Let time pass."""
        self.clock.run(end)

    def lose(self, share: float) -> list[int]:
        """Lose that share of all nodes at once, one at least; returns their numbers."""
        count = max(1, ceil(share * self.setup.nodes - 1e-9))
        there = np.flatnonzero(self.router.alive)
        lost = sorted(self._losses.choice(there, min(count, len(there)), replace=False).tolist())
        orphans = []
        for number in lost:
            orphans += self.nodes[number].kill()
            self.gone.add(self.nodes[number].stream.sent)
            self.router.lost(number)
            self.clock.at(self.clock.now + self.setup.replace_s, self._replace, number)
        self.moved += len(orphans)
        for request in orphans:
            self._send(request)
        return lost

    def publish(self, packed: bytes) -> None:
        """Publish one more prompt, on all nodes at once."""
        self._published[LATER] = packed
        for node in self.nodes:
            if node.alive:
                node.publish(LATER, packed)

    def busy_s(self) -> list[float]:
        """How long each node that is there has been computing."""
        for node in self.nodes:
            node.engine.advance(self.clock.now)
        return [node.engine.busy_s for node in self.nodes]

    def sent(self) -> Sent:
        """What all event streams have told."""
        total = Sent()
        total.add(self.gone)
        for node in self.nodes:
            if node.alive:
                total.add(node.stream.sent)
        return total

    def check(self) -> None:
        """Raise AssertionError if an invariant of any store does not hold."""
        for node in self.nodes:
            node.check()

    # --- inside -------------------------------------------------------------------------------------------------

    def _start(self, number: int) -> Node:
        listeners = Listeners(self._heard, self._first_token, self._answered)
        node = Node(number, self.setup.pool, self.setup.model, self.clock, listeners)
        for identity, packed in self._published.items():
            node.publish(identity, packed)
        self.router.joined(number)
        return node

    def _replace(self, number: int) -> None:
        if not self.nodes[number].alive:
            self.nodes[number] = self._start(number)
            held, self._held = self._held, []
            for request in held:
                self._send(request)

    def _next_conversation(self) -> None:
        found = next(self._arrivals, None)
        if found is not None:
            self.clock.at(found[0], self._converse, found[1])

    def _converse(self, conversation: Conversation) -> None:
        self._turn(conversation)
        self._next_conversation()

    def _turn(self, conversation: Conversation) -> None:
        self.arrived += 1
        self._send(conversation.turn(self.clock.now))

    def _send(self, request: AgentRequest) -> None:
        if not self.router.alive.any():
            self._held.append(request)
            return
        self._listen()
        number = self.router.choose(request)
        self.router.sent(number, request)
        self.nodes[number].arrive(request, SYSTEM)

    def _heard(self, node: Node, payload: bytes) -> None:
        self.bytes_in_second[int(self.clock.now)] += node.stream.size(payload)
        self._events.append((self.clock.now + self.setup.event_s, node.number, payload))

    def _listen(self) -> None:
        """Events that have reached the router by now; those of a node that is lost are not read any more."""
        while self._events and self._events[0][0] <= self.clock.now:
            _, number, payload = self._events.popleft()
            if self.router.alive[number]:
                self.router.heard(number, payload)

    def _first_token(self, node: Node, request: AgentRequest) -> None:
        self.router.first_token(node.number, request)
        if request.first_token == self.clock.now:
            assert request.cached is not None, "it was admitted"
            ttft = self.clock.now - request.arrival
            self.served.append(Served(request.arrival, ttft, request.prompt, request.cached, node.number))

    def _answered(self, node: Node, request: AgentRequest) -> None:
        self.router.answered(node.number, request)
        pause = request.conversation.think()
        if pause is not None:
            self.clock.at(self.clock.now + pause, self._turn, request.conversation)
