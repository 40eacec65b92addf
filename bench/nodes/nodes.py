"""``quire bench nodes``: a cluster of real stacks on this machine, each on a node of a local Ray of its own.

- *Hits*: agents of eight tenants with one published prompt, through the entrance, beside the same agents on one stack
  with as many engines and one pool of as many blocks.
- *Nodes that come and go*, under clients that stream all the time and know what each answer must say: a machine that is
  switched off, one that is cut off, and a scaling from one node to three and back.

All nodes share the machine's cores, so no time here says how fast a cluster is; a new node's start is that of a machine
as busy as this one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.load.generator import play_cold, play_summary
from bench.models.sizes import SIZES, kv_bytes_per_token, model_directory, words
from bench.report.figures import Report, machine, say, table
from bench.servers.quire import Quire

from .hits import Hits, fleet, hits_of, play_cluster
from .local_cluster import LocalCluster
from .losses import lose_node
from .steady_load import FAILED, LOST, WHOLE, SteadyLoad
from .switched_off import cut_off, switch_off

BLOCK = 16
LIMIT_S = 600.0
WAYS = {"switched off": switch_off, "cut off": cut_off}
STEPS = (1, 3, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--nodes", default="2,4", help="numbers of nodes; with the first of them some are lost")
    parser.add_argument("--agents", type=int, default=64, help="agents of eight tenants (default: 64)")
    parser.add_argument("--turns", type=int, default=2, help="turns of each (default: 2)")
    parser.add_argument("--prompt", type=int, default=900, help="tokens of the published prompt (default: 900)")
    parser.add_argument("--blocks", type=int, default=512, help="blocks of each node's pool (default: 512)")
    parser.add_argument("--model", choices=tuple(SIZES), default="tiny", help="random Llama of this size")
    parser.add_argument("--times", type=int, default=1, help="how often a node is lost each way (default: 1)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    report = Report("nodes", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    vocabulary = words(arguments.model)
    prompt = " ".join(vocabulary[(7 * place) % len(vocabulary)] for place in range(arguments.prompt))
    rows, events = list[list[object]](), list[dict[str, Any]]()
    for place, number in enumerate(int(word) for word in arguments.nodes.split(",")):
        say(f"one pool, {number} engines ...")
        one, times = _one_pool(arguments, prompt, number)
        rows.append(_row(f"one pool, {number} engines", one, 1.0, times))
        say(f"{number} nodes ...")
        with _cluster(arguments, prompt, number) as cluster:
            report.figures[f"up, {number} nodes"] = cluster.began_s
            many, times = _nodes(arguments, cluster, prompt)
            rows.append(_row(f"{number} nodes", many, many.rate / one.rate, times))
            report.figures[f"{number} nodes"] = {"rate": many.rate, "one_pool": one.rate, "beyond": many.beyond}
            if not place:
                events += _come_and_go(arguments, cluster, prompt, number)
    report.figures["hits"], report.figures["events"] = rows, events
    columns = ["arrangement", "hit rate", "of one pool's", "prompt computed", "beyond", "TTFT p50", "tokens/s"]
    report.tables.append(("Hits", table(rows, columns)))
    shown = ("what", WHOLE, LOST, FAILED, "given up, s", "successor began, s", "full strength, s")
    report.tables.append(
        ("Nodes that come and go", table([[event.get(key) for key in shown] for event in events], shown))
    )
    report.machine["load_1m_after"] = machine()["load_1m"]
    report.notes += [
        "Hit rate: prompt tokens that were not computed, of all; a prompt that nodes computed unasked is counted.",
        "Prompt computed: tokens that nodes had computed before any agent came, in all. Beyond: what engines computed"
        " more than answers account for; less than nothing, since an answer's last token is drawn and not computed, and"
        " engines report a moment later.",
        "Whole, lost, failed: requests that came to their end with the right words, that had begun at the lost node and"
        " ended with node_lost, and all others.",
    ]
    return report


@contextmanager
def _cluster(arguments: argparse.Namespace, prompt: str, nodes: int) -> Iterator[LocalCluster]:
    stack = {"model": str(model_directory(arguments.model)), "engines": 1, "threads": 1, "blocks": arguments.blocks}
    with (
        tempfile.TemporaryDirectory(prefix="quire-bench-") as folder,
        LocalCluster(f"bench-{os.getpid()}", Path(folder), prompt, stack, nodes) as cluster,
    ):
        yield cluster


def _one_pool(arguments: argparse.Namespace, prompt: str, engines: int) -> tuple[Hits, dict[str, float]]:
    block = kv_bytes_per_token(arguments.model) * BLOCK
    options = {"engines": engines, "block_size": BLOCK, "threads": 1}
    with Quire(model_directory(arguments.model), engines * arguments.blocks * block, block, options) as server:
        agents = fleet(arguments.agents, prompt, words(arguments.model), arguments.turns)
        answers = play_cold(lambda: server.publish((prompt,)), agents, server.target(isolated=True))
    return hits_of(answers), play_summary(answers)


def _nodes(arguments: argparse.Namespace, cluster: LocalCluster, prompt: str) -> tuple[Hits, dict[str, float]]:
    times = dict[str, float]()
    agents = fleet(arguments.agents, prompt, words(arguments.model), arguments.turns)
    found, _ = play_cluster(cluster, agents, lambda answers: times.update(play_summary(answers)))
    return found, times


def _row(name: str, hits: Hits, ratio: float, times: dict[str, float]) -> list[object]:
    return [
        name, hits.rate, ratio, hits.unasked, hits.beyond, times["ttft_p50_s"], times["output_tokens_per_s"],
    ]  # fmt: skip


def _come_and_go(arguments: argparse.Namespace, cluster: LocalCluster, prompt: str, nodes: int) -> list[dict[str, Any]]:
    found = list[dict[str, Any]]()
    with SteadyLoad(cluster.target(), prompt) as load:
        machines = nodes
        for what, way in [(what, way) for _ in range(arguments.times) for what, way in WAYS.items()]:
            say(f"{what} ...")
            cluster.with_machines(machines + 1)  # of which one goes
            began = time.monotonic()
            loss = lose_node(cluster, way, LIMIT_S)
            seconds = {
                "given up, s": loss.given_up_s,
                "successor began, s": loss.began_s,
                "full strength, s": loss.full_s,
            }
            found.append({"what": what, **load.counts(began), **seconds})
        for step in STEPS:
            say(f"to {step} ...")
            began = time.monotonic()
            cluster.scale(step)
            found.append({"what": f"to {step}", **load.counts(began), "full strength, s": time.monotonic() - began})
    for failure in load.failures()[:8]:
        say(f"failed: {failure}")
    return found
