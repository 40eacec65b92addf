"""Nodes of a local Ray cluster, as a user has them: up, asked, a machine lost, scaled, down; one truth, one entrance.

One cluster for all tests of this file, which run in their order: two nodes at first, then a node is lost, and at the
end it is scaled, both under clients that stream all the time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.load.agents import TENANTS
from bench.load.generator import play_cold
from bench.models.sizes import kv_bytes_per_token, model_directory, words
from bench.nodes.hits import fleet, hits_of, play_cluster
from bench.nodes.local_cluster import LocalCluster, key_of
from bench.nodes.losses import lose_node
from bench.nodes.steady_load import FAILED, LOST, WHOLE, SteadyLoad
from bench.nodes.switched_off import switch_off
from bench.servers.quire import Quire
from quire_services.cluster.declarations.follower import BOUND_S
from quire_services.config.key_digests import key_digest
from tests.support.waits import wait_for

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(900)]
NAME = f"test-{os.getpid()}"
BLOCKS, BLOCK = 512, 16
PROMPT = " ".join(f"w{(7 * place) % 400}" for place in range(300))
FULL_S = 240.0  # for some thirty seconds, on a machine that does more; the figure is printed
LOAD: dict[str, Any] = {"clients": TENANTS - 1, "tokens": 128, "pause_s": 2.0}  # one tenant's key is revoked by then


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two nodes that serve; down afterwards."""
    stack = {"model": str(model_directory("tiny")), "engines": 1, "blocks": BLOCKS, "threads": 1}
    with LocalCluster(NAME, tmp_path_factory.mktemp("cluster"), PROMPT, stack, nodes=2, drain_s=240) as started:
        yield started


def ask(url: str, model: str, tenant: int = 0) -> dict[str, Any]:
    """A chat's usage."""
    body = {"model": model, "messages": [{"role": "user", "content": "w1 w2 w3 " * 20}], "max_tokens": 4}
    headers = {"authorization": f"Bearer {key_of(tenant)}"}
    answered = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answered.status_code == 200, answered.text
    usage: dict[str, Any] = answered.json()["usage"]
    return usage


def test_many_agents_hit_on_two_nodes_what_they_hit_in_one_pool(cluster: LocalCluster) -> None:
    """64 agents of 8 tenants: 95 % of one pool's hit rate, and their prompt was computed once on each node, unasked."""
    agents = fleet(64, PROMPT, words("tiny"))
    found, before = play_cluster(cluster, agents)
    published = min(before.values())
    assert published > 300
    assert list(before.values()) == [published] * 2
    assert found.cached >= published * 64 * 2
    assert found.beyond is not None
    assert found.beyond < published, "no tenant has computed the prompt again"

    block = kv_bytes_per_token("tiny") * BLOCK
    options = {"engines": 1, "block_size": BLOCK, "threads": 1}
    with Quire(model_directory("tiny"), 2 * BLOCKS * block, block, options) as one:
        pooled = hits_of(play_cold(lambda: one.publish((PROMPT,)), agents, one.target(isolated=True)))
    assert found.prompt == pooled.prompt
    assert found.rate >= 0.95 * pooled.rate > 0.5


def test_every_node_is_a_stack_of_its_own(cluster: LocalCluster) -> None:
    """Each answers at its own address, and has in its pool what was computed there alone."""
    serving = cluster.nodes()
    assert [node["state"] for node in serving] == ["serving"] * 2
    assert len({node["url"] for node in serving}) == 2
    for node in serving:
        first, second = ask(node["url"], cluster.model), ask(node["url"], cluster.model)
        assert first["prompt_tokens_details"]["cached_tokens"] == 0
        assert second["prompt_tokens_details"]["cached_tokens"] > 0


def test_one_address_and_one_truth(cluster: LocalCluster) -> None:
    """The entrance reaches both nodes with a key that was declared once, and a revoked one is refused behind it."""
    names = {node["name"] for node in cluster.nodes()}
    wait_for(lambda: cluster.states() == dict.fromkeys(names, "serving"), "it has both nodes")
    for _ in range(4):
        ask(cluster.url, cluster.model)
    last = TENANTS - 1

    def status(tenant: int) -> list[int]:
        body, headers = (
            {"model": cluster.model, "prompt": "w1", "max_tokens": 1},
            {"authorization": f"Bearer {key_of(tenant)}"},
        )
        url = f"{cluster.url}/v1/completions"
        return [httpx.post(url, json=body, headers=headers, timeout=60).status_code for _ in "ab"]

    assert status(last) == [200, 200]
    assert cluster.quire("declare", "nodes", f"--store={cluster.store}").count(" joined") == 2
    cluster.quire("declare", "revoke", f"sha256:{key_digest(key_of(last)).hex()}", f"--store={cluster.store}")
    wait_for(lambda: status(last) == [401, 401], "a revoked key is refused", BOUND_S)
    assert status(0) == [200, 200]


def test_up_again_changes_nothing(cluster: LocalCluster) -> None:
    """The same nodes go on."""
    before = {node["name"]: node["url"] for node in cluster.nodes()}
    assert "2 of 2 nodes serve" in cluster.up()
    assert {node["name"]: node["url"] for node in cluster.nodes()} == before


def test_a_machine_that_is_switched_off_costs_the_streams_it_had_begun_and_nothing_else(
    cluster: LocalCluster, record_property: Any
) -> None:
    """All of a node ends in one moment under streams of seven tenants: those that had begun there end with node_lost,
    all others come to their end with the right words, and soon there are as many nodes as before."""
    cluster.with_machines(3)
    with SteadyLoad(cluster.target(), PROMPT, **LOAD) as load:
        wait_for(lambda: len(load.done) > TENANTS, "streams run", 60)
        segments = {
            name
            for node in cluster.nodes()
            for name in re.findall("quire-[0-9a-f]+", (cluster.run_dir(node["url"]) / "arena.json").read_text())
        }
        loss = lose_node(cluster, switch_off, FULL_S)
        ended = len(load.done)
        wait_for(lambda: len(load.done) > ended + TENANTS, "streams run on", 120)
    for name in ("given_up_s", "began_s", "full_s"):
        record_property(name, round(getattr(loss, name), 1))
    print(f"switched off: {loss}")

    assert load.failures() == []
    assert load.counts()[LOST] <= TENANTS - 1
    assert all(one.began < loss.at for one in load.done if one.kind == LOST)
    for node in cluster.nodes():
        ask(node["url"], cluster.model)
    left = {name for name in segments if Path("/dev/shm", name).exists()}
    assert len(left) < len(segments), "the lost node's memory is given back where its successor starts"


def test_scaling_under_load_loses_no_request(cluster: LocalCluster) -> None:
    """From two nodes to one, to three, and back to one: the newest are drained, the oldest goes on."""
    kept = min(cluster.nodes(), key=lambda node: int(node["name"].rpartition("-")[2]))
    with SteadyLoad(cluster.target(), PROMPT, **LOAD) as load:
        for number in (1, 3, 1):
            assert f"{number} of {number} nodes serve" in cluster.scale(number)
            ended = len(load.done)
            wait_for(lambda ended=ended: len(load.done) > ended + TENANTS, "streams run on", 120)
    counts = load.counts()
    assert (counts[LOST], counts[FAILED]) == (0, 0), (load.failures(), cluster.said_of_losses())
    assert counts[WHOLE] > 3 * TENANTS
    (left,) = cluster.nodes()
    assert (left["name"], left["url"]) == (kept["name"], kept["url"])


def test_down_leaves_nothing(cluster: LocalCluster) -> None:
    """No process, no folder, and a second time it has nothing to do."""
    processes = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and ours(path)}
    assert processes
    cluster.down()

    assert [pid for pid in processes if Path(f"/proc/{pid}").exists() and ours(Path(f"/proc/{pid}"))] == []
    assert [path.name for path in Path("/tmp").iterdir() if NAME in path.name] == []


def ours(process: Path) -> bool:
    """Whether a process names this cluster."""
    try:
        return NAME.encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False
