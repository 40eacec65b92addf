"""Traffic: agents of tenants. A conversation is an agent's; its turns follow each other, each with all that was said.

    prompt = published prompt + its tenant's instructions + turns and answers so far + the new turn

Every random quantity of a conversation comes from a generator of its own, seeded by the run's seed and its number: what
agents say does not depend on the router, on times of answers, or on nodes that are lost.

    tenant          Zipf over ``tenants``
    instructions    log-normal, private to the tenant
    turns           geometric, 1 to 12
    turn, answer    log-normal; think time: exponential, from an answer to the next turn
    arrivals        Poisson, a rate for each node
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

import numpy as np

from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.digests import domain_key

ROOT_KEY = bytes(32)  # tenants are declared once for all nodes, and so are the keys of their names
VOCABULARY = 49_152
SPREAD = 0.7  # sigma of log-normal lengths
MAX_TURNS, LONGEST = 12, 4  # turns, and lengths in multiples of their mean


@dataclass(frozen=True, slots=True)
class Shape:
    """What is drawn. Lengths are means, in tokens.

    Attributes:
        published: length of the published prompt that all agents begin with.
        conversations_s: that begin on average for each node in a second.
    """

    tenants: int = 200
    zipf: float = 1.0
    published: int = 1000
    instructions: int = 600
    turns: float = 5.0
    turn: int = 80
    answer: int = 80
    think_s: float = 10.0
    conversations_s: float = 0.04

    @property
    def longest(self) -> int:
        """Tokens that no sequence exceeds."""
        each = LONGEST * (self.turn + self.answer) + 2
        return self.published + LONGEST * self.instructions + MAX_TURNS * each


@dataclass(slots=True, eq=False)
class AgentRequest:
    """One turn.

    Attributes:
        chain: the prompt. When the answer is complete, it is in there, too.
        answer: tokens that will be generated, packed.
        sent: how many of them the client has.
        first_token: when it had the first one, or None.
        cached: prompt tokens that were not computed when it was first admitted, or None.
        moves: how often it went on elsewhere, because its node was lost.
    """

    conversation: Conversation
    arrival: float
    chain: DomainChain
    prompt: int
    answer: bytes
    sent: int = 0
    first_token: float | None = None
    cached: int | None = None
    moves: int = 0

    @property
    def left(self) -> int:
        """Tokens to generate."""
        return len(self.answer) // 4 - self.sent


class Conversation:
    """One agent: its tenant, and what it will say."""

    def __init__(self, number: int, tenant: int, chain: DomainChain, shape: Shape, random: np.random.Generator) -> None:
        self.number, self.tenant = number, tenant
        self._chain, self._shape, self._random = chain, shape, random
        self._left = min(int(random.geometric(1 / shape.turns)), MAX_TURNS)

    def turn(self, now: float) -> AgentRequest:
        """The next turn."""
        self._left -= 1
        self._chain.append(_text(self._random, self._shape.turn))
        answer = _text(self._random, self._shape.answer)
        return AgentRequest(self, now, self._chain, len(self._chain), answer)

    def think(self) -> float | None:
        """Seconds until it goes on, or None if it is over."""
        return float(self._random.exponential(self._shape.think_s)) if self._left else None


class Traffic:
    """All agents of a run.

    Attributes:
        published: tokens of the published prompt, packed.
    """

    def __init__(self, shape: Shape, nodes: int, block_size: int, seed: int) -> None:
        self.shape, self._seed, self._block_size = shape, seed, block_size
        self._rate = shape.conversations_s * nodes
        random = np.random.default_rng((seed, 0))
        self.published = _tokens(random, shape.published)
        weights = 1 / np.arange(1, shape.tenants + 1) ** shape.zipf
        self._shares = np.cumsum(weights / weights.sum())
        self._chains: dict[int, DomainChain] = {}

    def conversations(self, end: float) -> Iterator[tuple[float, Conversation]]:
        """Those that begin until ``end``, with their time, in order."""
        random, now = np.random.default_rng((self._seed, 1)), 0.0
        for number in range(1 << 60):
            now += float(random.exponential(1 / self._rate))
            if now > end:
                return
            own = np.random.default_rng((self._seed, 2, number))
            tenant = int(np.searchsorted(self._shares, own.random(), side="right"))
            chain = self._instructions(min(tenant, self.shape.tenants - 1))
            yield now, Conversation(number, tenant, chain.fork(len(chain)), self.shape, own)

    def _instructions(self, tenant: int) -> DomainChain:
        """What each conversation of a tenant begins with, in its names."""
        if tenant not in self._chains:
            key = domain_key(ROOT_KEY, f"tenant:{tenant_name(tenant)}", 1)
            chain = DomainChain(key, self._block_size, self.published)
            chain.append(_text(np.random.default_rng((self._seed, 3, tenant)), self.shape.instructions))
            chain.digests()
            self._chains[tenant] = chain
        return self._chains[tenant]


def tenant_name(tenant: int) -> str:
    """How a tenant is called."""
    return f"tenant-{tenant}"


def _text(random: np.random.Generator, mean: int) -> bytes:
    """Tokens, packed, of a log-normal length with this mean."""
    length = random.lognormal(log(mean) - SPREAD**2 / 2, SPREAD)
    return _tokens(random, min(max(1, round(length)), LONGEST * mean))


def _tokens(random: np.random.Generator, count: int) -> bytes:
    return random.integers(0, VOCABULARY, count, dtype=np.dtype("<u4")).tobytes()
