"""``quire bench routers``: each router behind ``quire entrance``, in front of the same two stacks.

All entrances stand before the same nodes from the beginning to the end of a run; one is used at a time. Two questions:

- *What does a choice cost?* Requests of which everything is cached, one at a time, through each entrance and to a node
  directly (``added_latency``).
- *Where does it send agents?* Agents of eight tenants come one after the other and talk (``tenant_agents``). Each round
  has agents of another seed, whom every router gets in turn, another one first each round; for each router their
  prompts begin with a word that never came before, so that no node has anything of them. Shown are the share of prompt
  tokens that nodes found cached, times to the first token, and how evenly requests were spread.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Self

from bench.load.generator import play, play_summary
from bench.load.stream import StreamError
from bench.load.tenant_agents import TenantTraffic, tenant_agents
from bench.models.sizes import SIZES, kv_bytes_per_token, model_directory, words
from bench.processes.side import SideError
from bench.report.figures import Report, machine, median, say, table
from bench.servers.entrance import ChatRoute, EntranceServer, EventNode, running_nodes
from quire_services.cluster.entrance.entrance import PROGRAMS

from .added_latency import added_latency, turned
from .router_programs import ENVIRONMENTS, router_program, router_version

NODES = 2
BLOCK_SIZE = 16
BASE = "round-robin"
WARM_UP = TenantTraffic(agents=4, turns=1, system=128, turn=16, answer=4, span_s=0.0)
WARM_SEED, LATENCY_SEED = -1, -2  # rounds begin at 0
LATENCY_ANSWER = 8
SETTLE_S = 1.0  # a router asks for the events that it missed when it hears the first
PLAY_LIMIT_S = 300.0
BUSY = 0.5  # load before a run, from which on it says that the machine was not its own
COMPARED = ("ttft_p50_s", "ttft_p99_s")
SHOWN = {"hit_rate": "hit rate", "ttft_p50_s": "TTFT p50 s", "ttft_p99_s": "TTFT p99 s"}
SPREAD = {"busiest_share": "busier node", "chosen_share": "chosen"}
ADDED = {"added_first_ms": "added to first token ms", "added_whole_ms": "to the whole ms"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--router", type=_routers, default=list(PROGRAMS), help=f"some of {','.join(PROGRAMS)}")
    parser.add_argument("--rounds", type=int, default=5, help="of all routers in turn (default: 5)")
    parser.add_argument("--pairs", type=int, default=60, help="requests each way, for added latency (default: 60)")
    parser.add_argument("--model", choices=tuple(SIZES), default="27m", help="random Llama of this size")
    parser.add_argument("--kv-gib", type=float, default=1.0, help="GiB of keys and values of each node (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each engine (default: 1)")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where routers are installed")
    for name, default in asdict(TenantTraffic()).items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"of the traffic (default: {default})")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report. Raises SideError where a router is not installed."""
    names: list[str] = arguments.router
    programs = {name: router_program(name, arguments.environments) for name in names}
    settings = {k: v for k, v in vars(arguments).items() if k not in ("json", "save", "environments")}
    report = Report("routers", {**settings, "router": ",".join(names), "nodes": NODES})
    report.versions |= {name: router_version(name, program) for name, program in programs.items() if program}
    plays: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with _Bench(arguments, programs) as bench:
        say("added latency ...")
        added = bench.added(arguments.pairs)
        for number in range(arguments.rounds):
            for name in turned(names, number):
                say(f"round {number + 1}: {name} ...")
                plays[name].append(bench.play(name, number))
            fill_router_report(report, plays, added)
            report.notes = _notes(arguments, report.machine)
            report.write(arguments.save)
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


class _Bench:
    """Nodes, an entrance for each router, and agents; a context manager."""

    def __init__(self, arguments: argparse.Namespace, programs: dict[str, Path | None]) -> None:
        self._programs, self._words = programs, words(arguments.model)
        block_bytes = kv_bytes_per_token(arguments.model) * BLOCK_SIZE
        options = {"engines": 1, "threads": arguments.threads, "block_size": BLOCK_SIZE}
        model = model_directory(arguments.model)
        self._node = (model, int(arguments.kv_gib * 2**30), block_bytes, options)
        names = (field.name for field in fields(TenantTraffic))
        self._traffic = TenantTraffic(**{name: getattr(arguments, name) for name in names})
        self._stack = ExitStack()
        self._nodes: list[EventNode] = []
        self._entrances: dict[str, EntranceServer] = {}
        self._sent = dict.fromkeys(programs, 0)  # chats through each entrance
        self._plays = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._nodes = stack.enter_context(running_nodes(NODES, *self._node))
            for name, program in self._programs.items():
                self._entrances[name] = stack.enter_context(EntranceServer(name, program, self._nodes))
            for node in self._nodes:
                play(tenant_agents(WARM_UP, WARM_SEED, self._words), node.target(isolated=True))
            time.sleep(SETTLE_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def added(self, pairs: int) -> dict[str, dict[str, float]]:
        """Of every router, and of going to a node directly."""
        traffic = replace(self._traffic, turns=1, answer=LATENCY_ANSWER, span_s=0.0)
        agents = {agent.tenant: agent for agent in tenant_agents(traffic, LATENCY_SEED, self._words)}
        ways = {name: entrance.target(isolated=True) for name, entrance in self._entrances.items()}
        targets = [node.target(isolated=True) for node in self._nodes]
        found = added_latency(targets, ways, list(agents.values()), pairs)
        self._sent = {name: sent + pairs for name, sent in self._sent.items()}
        return found

    def play(self, router: str, seed: int) -> dict[str, float]:
        """One router with one round's agents, of whom no node has anything."""
        self._plays += 1
        agents = tenant_agents(self._traffic, seed, self._words, self._words[-self._plays])
        entrance = self._entrances[router]
        try:
            answers = play(agents, entrance.target(isolated=True), limit_s=PLAY_LIMIT_S)
        except (StreamError, OSError, TimeoutError) as error:
            raise SideError(f"{router}: a request failed: {error!r}; {entrance.last_words()}") from error
        figures = play_summary(answers)
        figures["hit_rate"] = 1 - figures["prompt_tokens_computed"] / figures["prompt_tokens"]
        requests = int(figures["requests"])
        self._sent[router] += requests
        return {**figures, **spread(entrance.routes(self._sent[router])[-requests:])}


def spread(routes: Sequence[ChatRoute]) -> dict[str, float]:
    """How chats were dealt out: share of the node that had most, and share of those for which the router chose."""
    most = max(Counter(route.node for route in routes).values())
    return {
        "busiest_share": most / len(routes),
        "chosen_share": sum(route.chosen for route in routes) / len(routes),
    }


def fill_router_report(
    report: Report, plays: dict[str, list[dict[str, float]]], added: dict[str, dict[str, float]]
) -> None:
    """What was measured so far: medians over rounds, and ratios within them. Every router has played as often."""
    medians = {name: {key: median(one[key] for one in some) for key in some[0]} for name, some in plays.items()}
    ratios = {
        name: {
            key: median(one[key] / base[key] for one, base in zip(some, plays[BASE], strict=True)) for key in COMPARED
        }
        for name, some in plays.items()
        if BASE in plays and name != BASE
    }
    report.figures = {"routers": medians, f"ratios to {BASE}": ratios, "added": added, "rounds": plays}
    rows: list[list[object]] = []
    for name, found in medians.items():
        compared: dict[str, float] = ratios.get(name, {})
        row: list[object] = [name, *(found[key] for key in SHOWN), *(compared.get(key) for key in COMPARED)]
        rows.append([*row, *(found[key] for key in SPREAD), *(added[name][key] for key in ADDED)])
    header = ["router", *SHOWN.values(), "p50 ratio", "p99 ratio", *SPREAD.values(), *ADDED.values()]
    ways: list[list[object]] = [[name, one["first_ms"], one["whole_ms"]] for name, one in added.items()]
    report.tables = [
        (f"Routers in front of {NODES} nodes", table(rows, header)),
        ("One request, everything cached", table(ways, ["way", "to first token ms", "to the end ms"])),
    ]


def _notes(arguments: argparse.Namespace, told: dict[str, Any]) -> list[str]:
    notes = [
        "Hit rate: prompt tokens that were not computed, of all prompt tokens. Medians over the rounds; ratios are to"
        f" {BASE} within a round. Every router gets the round's requests, a first word making them new to nodes.",
        "Busier node: its share of requests. Chosen: share of requests for which the router chose; the others go to the"
        " node with the least open.",
        f"Added: median of {arguments.pairs} requests through the entrance less the median of the same ones sent to a"
        " node directly, ways in turn, one request at a time, everything cached at both nodes.",
        f"Nodes, routers and the load generator share {told['cores']} cores.",
    ]
    if told["load_1m"] > BUSY:
        notes.append(
            f"The machine had other work (load {told['load_1m']:.1f} when this began): compare within the run only."
        )
    return notes


def _routers(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in PROGRAMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no router {unknown[0]!r}; there are {', '.join(PROGRAMS)}")
    return names
