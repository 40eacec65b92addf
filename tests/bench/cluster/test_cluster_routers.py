"""Routers, and the index that is made of events: beside the stores that sent them."""

from __future__ import annotations

import numpy as np
import pytest

from bench.cluster.cluster_run import ClusterRun
from bench.cluster.routing.event_index import EventIndex
from bench.cluster.routing.kv_router import KvRouter
from bench.cluster.routing.routers import LeastLoaded, RoundRobin, Router, SessionAffinity
from bench.cluster.traffic import AgentRequest, Conversation, Shape, Traffic
from quire_kvstore.events.batch import encode_batch
from quire_proto.wire.digests import split
from quire_proto.wire.u32 import pack_u32

from .test_cluster import SETUP, SHAPE

TRAFFIC = Traffic(Shape(tenants=3, published=32, instructions=8, turn=8, answer=4), 4, 4, 1)


def requests(count: int) -> list[AgentRequest]:
    """First turns of so many conversations."""
    found = [conversation for _, conversation in TRAFFIC.conversations(1000.0)][:count]
    return [conversation.turn(0.0) for conversation in found]


def test_the_index_knows_what_the_stores_have() -> None:
    """For every conversation the events alone tell, for each node, exactly the blocks that its store would hit, after
    evictions, and after a node was lost and another one took its place."""
    run = ClusterRun(SETUP, 24.0)
    seen: list[Conversation] = []
    converse = run._converse
    run._converse = lambda conversation: (seen.append(conversation), converse(conversation))[1]  # type: ignore[method-assign, func-returns-value]
    run.run(12.0)
    run.lose(0.25)
    run.run(24.0)
    for _, number, payload in run._events:
        run.router.heard(number, payload)
    assert isinstance(run.router, KvRouter)
    index, hits = run.router.index, 0
    for conversation in seen:
        chain = conversation._chain
        expected, behind = [], SHAPE.published // 4
        for node in run.nodes:
            there = len(node.state.index.longest(split(chain.digests()), behind, chain.blocks))
            expected.append(behind + there)
            hits += there
        assert index.overlap(chain.tokens).tolist() == expected
    assert hits > 50
    assert sum(node.state.counters.evictions for node in run.nodes) > 20
    assert len(index) < index.names, "the published prompt is on all nodes"


def test_a_node_that_is_cleared_has_nothing() -> None:
    """After `AllBlocksCleared` only the others have what it had."""
    index = EventIndex(2, 2)
    stored = {
        "type": "BlockStored",
        "block_hashes": [1, 2],
        "parent_block_hash": None,
        "token_ids": [5, 6, 7, 8],
    }
    for node in (0, 1):
        index.apply(node, encode_batch([stored], 0.0))
    tokens = pack_u32([5, 6, 7, 8])
    assert index.overlap(tokens).tolist() == [2, 2]
    index.apply(0, encode_batch([{"type": "AllBlocksCleared"}], 0.0))
    index.apply(1, encode_batch([{"type": "BlockRemoved", "block_hashes": [2]}], 0.0))
    assert index.overlap(tokens).tolist() == [0, 1]
    assert (index.names, len(index), index.orphans) == (1, 1, 0)
    index.apply(0, encode_batch([{**stored, "parent_block_hash": 99}], 0.0))
    assert index.orphans == 2, "what has no parent cannot be found"


def test_the_cost_is_prefill_and_decode_blocks() -> None:
    """Of three nodes that lack 8, 5 and 2 blocks and decode 10, 5 and 9, the second costs least, as Dynamo says."""
    router = KvRouter(3, 1, 4, 1.0)
    for node in range(3):
        router.joined(node)
    request = next(one for one in requests(50) if len(one.chain) // 4 >= 10)
    router.index.overlap = lambda _: np.array([2, 5, 8])  # type: ignore[method-assign]
    router._decode[:] = (10, 5, 9)
    assert router.choose(request) == 1
    router._weight = 10.0
    assert router.choose(request) == 2
    router.sent(2, request)
    assert router._prefill[2] == len(request.chain) - 8 * 4
    router.first_token(2, request)
    router.answered(2, request)
    assert router._prefill.tolist() == [0, 0, 0]
    assert router._decode.tolist() == [10, 5, 9]


@pytest.mark.parametrize("kind", [RoundRobin, LeastLoaded, SessionAffinity])
def test_lost_nodes_get_nothing(kind: type[Router]) -> None:
    """Until they are back."""
    router = kind(4, 1)
    for node in range(4):
        router.joined(node)
    router.lost(2)
    chosen = set()
    for request in requests(60):
        node = router.choose(request)
        router.sent(node, request)
        chosen.add(node)
    assert chosen == {0, 1, 3}


def test_a_lost_node_moves_its_own_conversations_alone() -> None:
    """Session affinity: whoever was elsewhere stays there, and all come back when the node does."""
    router, all_of_them = SessionAffinity(8, 1), requests(200)
    for node in range(8):
        router.joined(node)
    before = [router.choose(request) for request in all_of_them]
    assert set(before) == set(range(8))
    router.lost(3)
    after = [router.choose(request) for request in all_of_them]
    assert all(now == then for now, then in zip(after, before, strict=True) if then != 3)
    assert 3 not in after
    router.joined(3)
    assert [router.choose(request) for request in all_of_them] == before
