"""The simulated cluster: repeatable, on stores whose invariants hold, with nodes that are lost."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest

from bench import cli
from bench.cluster import cluster
from bench.cluster.cell import Timeline, measure_cell
from bench.cluster.cluster_run import ROUTERS, SYSTEM, ClusterRun, Setup
from bench.cluster.measures import hit_rate
from bench.cluster.nodes.node import Pool
from bench.cluster.nodes.service_model import ServiceModel
from bench.cluster.routing.kv_router import KvRouter
from bench.cluster.traffic import Shape
from bench.processes.side import SideError

SHAPE = Shape(
    tenants=5,
    published=70,
    instructions=40,
    turns=3.0,
    turn=12,
    answer=10,
    think_s=2.0,
    conversations_s=0.5,
)
SETUP = Setup(4, "kv_aware", SHAPE, Pool(170, 4, "lru"), ServiceModel(500.0, 0.02, 0.001, 32, 8), 1, replace_s=3.0)
SHORT = Timeline(warm=2.0, phase=20.0)


def ran(setup: Setup, end: float) -> ClusterRun:
    """A run until a time."""
    run = ClusterRun(setup, end)
    run.run(end)
    return run


def test_the_same_seed_gives_the_same_figures() -> None:
    """Two measurements of a cell are equal to the last digit."""
    setup = replace(SETUP, nodes=1, shape=replace(SHAPE, conversations_s=0.2))
    first, again = (measure_cell(setup, SHORT, 1)[0] for _ in range(2))
    assert first == again
    assert first["requests"] > 30


@pytest.mark.parametrize("router", ROUTERS)
def test_the_same_seed_gives_the_same_run(router: str) -> None:
    """Whatever the router: every request goes to the same node and waits as long."""
    setup = replace(SETUP, router=router)
    first, again, other = (ran(one, 8.0).served for one in (setup, setup, replace(setup, seed=2)))
    assert first == again
    assert first != other


@pytest.mark.parametrize("policy", ["lru", "density"])
def test_stores_keep_their_invariants_through_losses(policy: str) -> None:
    """After losses and publishing every store is sound, though its pool is so small that it evicts all the time."""
    run = ClusterRun(replace(SETUP, nodes=2, pool=Pool(170, 4, policy)), 24.0)
    run.run(12.0)
    run.lose(0.5)
    run.run(17.0)
    run.publish(run.traffic.published[::-1])
    run.run(24.0)
    run.check()
    assert sum(node.state.counters.evictions for node in run.nodes) > 20


def test_a_store_that_is_unsound_is_found() -> None:
    """A reference that nobody holds fails the run."""
    run = ran(SETUP, 5.0)
    run.nodes[2].state.pool.refs[7] += 1
    with pytest.raises(AssertionError):
        run.check()


def test_a_published_prompt_is_computed_once_a_node() -> None:
    """However many requests begin with it, and at whatever time, its tokens are computed once."""
    run = ran(replace(SETUP, router="random"), 12.0)
    for node in run.nodes:
        counters, named = node.state.counters, node.state.publications.get(SYSTEM)
        assert named is not None
        assert named.count == SHAPE.published
        assert counters.publication_tokens == (counters.allocates - 1) * SHAPE.published, "all requests but its prefill"


@pytest.mark.parametrize("router", ROUTERS)
def test_what_a_lost_node_had_goes_on_elsewhere(router: str) -> None:
    """Every request has one first token in the end, and every answer all its tokens, though all nodes are lost."""
    run = ClusterRun(replace(SETUP, router=router, replace_s=1.0), 9.0)
    for at in (3.0, 5.0, 7.0):
        run.run(at)
        run.lose(0.5)
    run.run(7.5)
    run.lose(1.0)  # none is left: requests wait for the first that comes back
    run.run(200.0)
    assert run.moved > 2
    assert len(run.served) == run.arrived
    assert run.router.under_way.tolist() == [0] * SETUP.nodes
    for node in run.nodes:
        assert node.state.pool.counts()["held"] == -(-SHAPE.published // 4), "the published prompt alone"
    run.check()


def test_routing_by_events_finds_more_than_chance() -> None:
    """On the same traffic, what stores tell of their caches brings hits that chance does not."""
    by_events, by_chance = (ran(replace(SETUP, router=router), 20.0) for router in ("kv_aware", "random"))
    assert hit_rate(by_events.served) > hit_rate(by_chance.served) + 0.03
    assert isinstance(by_events.router, KvRouter)
    assert by_events.router.index.orphans == 0


def test_its_command_prints_a_cell_for_each_size_and_router(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`quire bench cluster` takes sizes, routers and a shape of traffic, and says what it ran with."""
    monkeypatch.setattr("sys.argv", ["quire", "bench", "cluster"])
    command = (
        "cluster --nodes 1,2 --router kv_aware,random --rounds 1 --warm-s 4 --phase-s 20 --tenants 3 --turns 2 --json"
    )
    assert cli.main(command.split()) == 0
    found = json.loads(capsys.readouterr().out)
    cells = [(cell["nodes"], cell["router"]) for cell in found["figures"]["cells"]]
    assert cells == [(1, "kv_aware"), (1, "random"), (2, "kv_aware"), (2, "random")]
    assert found["settings"]["traffic"]["tenants"] == 3


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--blocks 64", "no room for the longest request"),
        ("--engine nonsense", "is no result of `quire bench engine`"),
        ("--prefill-tokens-s 0", "no engine takes such times"),
        ("--turns 0.5", "--turns must be 1"),
        ("--phase-s 19", "--phase-s must be 20"),
        ("--tenants 0", "--tenants must be more than 0"),
        ("--replace-s -1", "--replace-s must not be less than 0"),
    ],
)
def test_settings_that_make_no_cluster_are_refused(options: str, complaint: str) -> None:
    """Each with a sentence, before anything runs."""
    parser = argparse.ArgumentParser()
    cluster.add_arguments(parser)
    with pytest.raises(SideError, match=complaint):
        cluster.run(parser.parse_args(options.split()))


@pytest.mark.parametrize("options", ["--nodes 0", "--nodes x", "--router fastest"])
def test_sizes_and_routers_that_there_are_not_are_refused(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As any wrong option is."""
    parser = argparse.ArgumentParser()
    cluster.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(options.split())
    assert options.split()[0] in capsys.readouterr().err
