"""KvRouter: the node with the least cost, by what its events say is cached there and what was sent there.

The cost is that of Dynamo's KV router (docs.nvidia.com/dynamo, Router Design, "Cost Calculation"):

    cost = overlap_score_weight * prefill blocks + decode blocks

Prefill blocks are those that a node would have to compute: of prompts that were sent there and have no first token yet,
and of this one less its overlap. Decode blocks are those of all that is under way there; this one's are the same
wherever it goes. A block that several requests share counts once for each of them, where Dynamo counts it once.
"""

from __future__ import annotations

import time

import numpy as np

from bench.cluster.traffic import AgentRequest

from .event_index import EventIndex
from .routers import Router


class KvRouter(Router):
    """Routes by events.

    Attributes:
        index: what is cached where.
        index_s, choice_s: real CPU seconds of taking events in, and of choosing.
    """

    def __init__(self, nodes: int, seed: int, block_size: int, weight: float) -> None:
        super().__init__(nodes, seed)
        self.index = EventIndex(nodes, block_size)
        self.index_s = self.choice_s = 0.0
        self._size, self._weight = block_size, weight
        self._prefill = np.zeros(nodes, np.int64)
        self._decode = np.zeros(nodes, np.int64)
        self._computing: dict[AgentRequest, int] = {}
        self._blocks: dict[AgentRequest, int] = {}

    def joined(self, node: int) -> None:
        """Another life, another cache."""
        super().joined(node)
        self._prefill[node] = self._decode[node] = 0

    def lost(self, node: int) -> None:
        """What it had is had no more."""
        super().lost(node)
        self.index.clear(node)

    def choose(self, request: AgentRequest, /) -> int:
        """The least cost."""
        began = time.thread_time()
        tokens = request.chain.tokens
        self._overlap = self.index.overlap(tokens)
        missing = len(tokens) // 4 - self._overlap * self._size
        node = self.least(self._weight * (self._prefill + missing) / self._size + self._decode)
        self.choice_s += time.thread_time() - began
        return node

    def sent(self, node: int, request: AgentRequest, /) -> None:
        """Its prompt is to be computed, and its blocks are there until it ends."""
        super().sent(node, request)
        tokens = len(request.chain)
        self._computing[request] = max(0, tokens - int(self._overlap[node]) * self._size)
        self._blocks[request] = -(-tokens // self._size)
        self._prefill[node] += self._computing[request]
        self._decode[node] += self._blocks[request]

    def first_token(self, node: int, request: AgentRequest, /) -> None:
        """Its prompt is computed."""
        self._prefill[node] -= self._computing.pop(request)

    def answered(self, node: int, request: AgentRequest, /) -> None:
        """Its blocks are given up."""
        super().answered(node, request)
        self._decode[node] -= self._blocks.pop(request)

    def heard(self, node: int, payload: bytes) -> None:
        """A message of a node's stream."""
        began = time.thread_time()
        self.index.apply(node, payload)
        self.index_s += time.thread_time() - began
