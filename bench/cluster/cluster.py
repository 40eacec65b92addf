"""``quire bench cluster``: many nodes in virtual time, under several routers.

Each node has a real store, whose real events go to the router as bytes; what is modelled is the time that an engine
takes (``service_model``) and what agents do (``traffic``). A few minutes of a thousand nodes pass in a few minutes of
one core. The same seed gives the same table, but for what it says of this machine's CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

from bench.processes.side import SideError
from bench.report.figures import Report, machine, say
from quire_kvstore.blocks.policies import POLICIES

from .cell import Timeline, measure_cell
from .cluster_run import ROUTERS, Setup
from .measures import WINDOW_S
from .nodes.node import Pool
from .nodes.service_model import MEASURED, measured_model
from .tables import tables
from .traffic import Shape

POOLED = 100  # small clusters are run so often that about as many nodes are seen
MAX_ROUNDS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--nodes", type=_counts, default=[10], metavar="N", help="nodes; several with commas")
    parser.add_argument("--router", type=_routers, default=list(ROUTERS), help=f"{', '.join(ROUTERS)} (default: each)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="seeds that are pooled (default: for 100 nodes, 20 at most)")
    parser.add_argument("--blocks", type=int, default=2048, help="of a node's pool (default: 2048)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens (default: 16)")
    parser.add_argument("--policy", choices=POLICIES, default="lru", help="what is evicted first (default: lru)")
    parser.add_argument("--engine", default=MEASURED, help=f"result of `quire bench engine` (default: {MEASURED})")
    for name, kind in (("prefill-tokens-s", float), ("base-s", float), ("row-s", float), ("rows", int)):
        parser.add_argument(f"--{name}", type=kind, help="instead of what was measured")
    parser.add_argument("--overlap-weight", type=float, default=1.0, help="of kv_aware's cost (default: 1)")
    parser.add_argument("--event-s", type=float, default=0.01, help="from a store to the router (default: 0.01)")
    parser.add_argument("--replace-s", type=float, default=15.0, help="until a lost node is replaced (default: 15)")
    parser.add_argument("--warm-s", type=float, default=Timeline().warm, help="until all is steady (default: 60)")
    parser.add_argument("--phase-s", type=float, default=Timeline().phase, help="of each phase (default: 60)")
    for name, default in asdict(Shape()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help="of the traffic")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    setups, timeline = list(_setups(arguments)), Timeline(arguments.warm_s, arguments.phase_s)
    first = setups[0]
    report = Report(
        "cluster",
        {
            "seed": first.seed,
            "pool": asdict(first.pool),
            "engine": arguments.engine,
            "model": first.model.as_json(),
            "traffic": asdict(first.shape),
            "timeline": asdict(timeline),
            "event_s": first.event_s,
            "replace_s": first.replace_s,
            "overlap_weight": first.overlap_weight,
        },
    )
    report.figures = {"cells": [], "cpu": []}
    for setup in setups:
        rounds = arguments.rounds or max(1, min(MAX_ROUNDS, POOLED // setup.nodes))
        say(f"{setup.nodes:,} nodes, {setup.router}, {rounds} rounds ...")
        cell, cpu = measure_cell(setup, timeline, rounds)
        report.figures["cells"].append(cell)
        report.figures["cpu"].append(cpu)
        report.tables = tables(report.figures["cells"], report.figures["cpu"])
        report.write(arguments.save)
    report.notes = NOTES
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


NOTES = [
    "Times are virtual: a real store and its real events, an engine's times from a line through measured steps.",
    "hit: share of prompt tokens that were not computed, in the steady phase. busy: of an engine, share of that time.",
    "skew: largest, and 99th percentile, in multiples of the mean. Of pooled rounds, over all their nodes.",
    "Events: messages as the kvstore encodes them, with all tokens; less ZMTP and TCP.",
    "Losses: beside the run of the same seed without them, in windows of 10 s. back: seconds until it is within 5 % of"
    " that, for 10 s at least; 0: it never left; -: not by the end of the phase.",
    "CPU: of this machine, and of an index in Python: the only figures here that another run does not repeat.",
]


def _setups(arguments: argparse.Namespace) -> Iterator[Setup]:
    """Every cell. Raises SideError for settings that make no cluster."""
    shape = Shape(**{field.name: getattr(arguments, field.name) for field in fields(Shape)})
    pool = Pool(arguments.blocks, arguments.block_size, arguments.policy)
    times = {name: getattr(arguments, name) for name in ("prefill_tokens_s", "base_s", "row_s", "rows")}
    model = measured_model(arguments.engine, **{name: value for name, value in times.items() if value is not None})
    _check(arguments, shape, pool)
    for nodes in arguments.nodes:
        for router in arguments.router:
            yield Setup(
                nodes,
                router,
                shape,
                pool,
                model,
                arguments.seed,
                arguments.event_s,
                arguments.replace_s,
                arguments.overlap_weight,
            )


def _check(arguments: argparse.Namespace, shape: Shape, pool: Pool) -> None:
    positive: dict[str, Any] = {**asdict(shape), "blocks": pool.blocks, "block_size": pool.block_size}
    positive |= {"warm_s": arguments.warm_s, "phase_s": arguments.phase_s, "rounds": arguments.rounds or 1}
    for name, value in positive.items():
        if value <= 0 and name != "zipf":
            raise SideError(f"--{name.replace('_', '-')} must be more than 0, not {value}")
    for name in ("zipf", "event_s", "replace_s", "overlap_weight", "seed"):
        if getattr(arguments, name) < 0:
            raise SideError(f"--{name.replace('_', '-')} must not be less than 0")
    if arguments.phase_s < 2 * WINDOW_S:
        raise SideError(f"--phase-s must be {2 * WINDOW_S:.0f} at least: half of it is one window")
    if shape.turns < 1:
        raise SideError("--turns must be 1 at least")
    needed = -(-shape.longest // pool.block_size) + 2 * -(-shape.published // pool.block_size) + 2
    if needed > pool.blocks:
        raise SideError(f"a pool of {pool.blocks} blocks has no room for the longest request: --blocks {needed}")


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1 or max(counts) > 100_000:
        raise argparse.ArgumentTypeError("numbers of nodes are 1 to 100,000")
    return counts


def _routers(text: str) -> list[str]:
    names = list(ROUTERS) if text == "all" else text.split(",")
    unknown = [name for name in names if name not in ROUTERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no router {unknown[0]!r}; there are {', '.join(ROUTERS)}")
    return names
