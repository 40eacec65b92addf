"""Routers: to which node a request goes. Each knows what a router in front of such nodes can know, and no more.

    round_robin       the next node
    random            any
    least_loaded      one with the fewest requests under way
    session_affinity  a conversation's node, by rendezvous hashing; another one only while that is lost
    kv_aware          the least cost, by the nodes' own events (`KvRouter`)

Ties are broken by chance: nodes are all the same at first, and the first of them is no better.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.cluster.traffic import AgentRequest

MASK = (1 << 64) - 1


class Router:
    """What all routers do: they know which nodes there are, and what is under way where.

    Attributes:
        alive: which nodes may be sent to.
        under_way: requests at each node.
    """

    def __init__(self, nodes: int, seed: int) -> None:
        self.random = np.random.default_rng((seed, 4))
        self.alive = np.zeros(nodes, np.bool_)
        self.under_way = np.zeros(nodes, np.int64)

    def joined(self, node: int) -> None:
        """A node is there, with nothing in it."""
        self.alive[node] = True
        self.under_way[node] = 0

    def lost(self, node: int) -> None:
        """A node is gone, and with it all that was under way there."""
        self.alive[node] = False

    def choose(self, request: AgentRequest, /) -> int:
        """The node for a request."""
        raise NotImplementedError

    def sent(self, node: int, _request: AgentRequest, /) -> None:
        """A request was sent to a node."""
        self.under_way[node] += 1

    def first_token(self, node: int, request: AgentRequest, /) -> None:
        """The first token of an answer passed through."""

    def answered(self, node: int, _request: AgentRequest, /) -> None:
        """An answer is complete."""
        self.under_way[node] -= 1

    def heard(self, node: int, payload: bytes) -> None:
        """A message of a node's event stream."""

    def least(self, cost: NDArray[np.float64]) -> int:
        """The node that is there and costs least."""
        cost = np.where(self.alive, cost, np.inf)
        best = np.flatnonzero(cost == cost.min())
        return int(best[self.random.integers(len(best))]) if len(best) > 1 else int(best[0])


class RoundRobin(Router):
    """The next node."""

    def __init__(self, nodes: int, seed: int) -> None:
        super().__init__(nodes, seed)
        self._last = -1

    def choose(self, _request: AgentRequest, /) -> int:
        """The first one after the last that is there."""
        there = np.flatnonzero(self.alive)
        self._last = int(there[np.searchsorted(there, self._last, side="right") % len(there)])
        return self._last


class Random(Router):
    """Any node."""

    def choose(self, _request: AgentRequest, /) -> int:
        """Each with the same chance."""
        return self.least(np.zeros(len(self.alive)))


class LeastLoaded(Router):
    """A node with the fewest requests under way."""

    def choose(self, _request: AgentRequest, /) -> int:
        """One of them."""
        return self.least(self.under_way.astype(np.float64))


class SessionAffinity(Router):
    """A conversation stays where it is. Of a lost node's conversations each finds another one, and all others stay."""

    def __init__(self, nodes: int, seed: int) -> None:
        super().__init__(nodes, seed)
        self._nodes = _mixed(np.arange(1, nodes + 1, dtype=np.uint64))

    def choose(self, request: AgentRequest, /) -> int:
        """The node that this conversation's number suits best."""
        weights = _mixed(self._nodes ^ np.uint64(request.conversation.number * 0x9E3779B97F4A7C15 & MASK))
        return int(np.argmax(np.where(self.alive, weights, np.uint64(0))))


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: bits that depend on all bits."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


MakeRouter = Callable[[int, int], Router]
