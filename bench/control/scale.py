"""``quire bench scale``: how costs grow with blocks, sequences, engines, tenants and prompt length.

Ids only: no model. One thing is varied at a time. The exponent of each curve is fitted between its first and last
point: 1 is linear, 0 is independent. For the number of blocks the pool is full of cached blocks, so that every
allocation evicts.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator
from typing import Any

from bench.processes.kvprocess import KVProcess
from bench.processes.side import Side
from bench.report.figures import Report, machine, median, say, table
from bench.report.plots import lines

from .clients import control_side, measure_clients

Curve = list[tuple[float, float]]
BLOCK_SIZE = 16
POOL = 131_072


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, of which the median counts (default: 3)")
    parser.add_argument("--largest", type=int, default=4_000_000, help="largest pool, blocks (default: 4000000)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    quick, rounds = arguments.quick, arguments.rounds
    report = Report("scale", {"rounds": rounds, "largest": arguments.largest, "block_size": BLOCK_SIZE, "pool": POOL})
    pools = [1_000] if quick else [n for n in (10_000, 100_000, 1_000_000, 4_000_000) if n <= arguments.largest]
    curves: dict[str, Curve] = {}
    with _ours(4096 if quick else POOL) as side:
        counts = (4, 8) if quick else (16, 64, 256, 1024, 2048)
        curves["decode step, us CPU, by sequences"] = [
            (n, _cpu(side, rounds, case="decode", sequences=n, steps=16, prompt=64)) for n in counts
        ]
        lengths = (64, 128) if quick else (512, 2048, 8192, 32768, 131072)
        for cached in (False, True):
            curves[f"admit {'cached' if cached else 'cold'}, us CPU, by prompt tokens"] = [
                (n, _cpu(side, rounds, case="admit", tokens=n, cached=cached, repeat=4)) for n in lengths
            ]
        tenants = (1, 4) if quick else (1, 16, 256, 4096)
        curves["admit 1,024 cold, us CPU, by tenants"] = [
            (n, _cpu(side, rounds, case="tenants", tokens=64 if quick else 1024, tenants=n, repeat=8)) for n in tenants
        ]
    _fill(report, curves, arguments.save)
    curves |= _pools(pools, rounds)
    _fill(report, curves, arguments.save)
    clients = measure_clients(4096 if quick else POOL, BLOCK_SIZE, rounds, 16 if quick else 256, 4 if quick else 64)
    curves["kvstore us CPU a message, by engines"] = [
        (float(row["clients"]), row["kvstore_cpu_us_per_message"]) for row in clients
    ]
    _fill(report, curves, arguments.save)
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


def _fill(report: Report, curves: dict[str, Curve], name: str | None) -> None:
    """Put everything that was measured so far into the report, and keep it."""
    rows: list[list[object]] = []
    for title, points in curves.items():
        power = exponent(points)
        shown = ", ".join(f"{x:,.0f}: {y:,.0f}" for x, y in points)
        rows.append([title, shown, power])
        report.figures[title] = {"points": points, "exponent": power}
    report.tables = [("Costs", table(rows, ["what", "points", "exponent"]))]
    report.write(name)
    if name:
        lines(name, "costs against size", ("size", "us CPU"), curves, log=True)


def exponent(points: Curve) -> float | None:
    """Slope between the first and the last point on log scales; None for a single point."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    return math.log(y1 / y0) / math.log(x1 / x0) if x1 != x0 else None


@contextlib.contextmanager
def _ours(blocks: int) -> Iterator[Side]:
    """Our side on a pool of so many blocks."""
    with contextlib.ExitStack() as stack:
        kvstore = stack.enter_context(KVProcess(blocks, BLOCK_SIZE))
        side = stack.enter_context(control_side("ours", kvstore))
        yield side
        side.ask(case="stop")


def _cpu(side: Side, rounds: int, **case: Any) -> float:
    """CPU time of one operation in us: engine and kvstore; the first round is thrown away."""
    say(", ".join(f"{key} {value}" for key, value in case.items()))
    return median([side.ask(**case)["cpu_us"] for _ in range(rounds + 1)][1:])


def _pools(pools: list[int], rounds: int) -> dict[str, Curve]:
    cold: Curve = []
    decode: Curve = []
    for blocks in pools:
        with _ours(blocks) as side:
            say(f"filling {blocks:,} blocks ...")
            side.ask(case="fill", blocks=blocks)
            tokens = min(1024, blocks * BLOCK_SIZE // 32)
            cold.append((blocks, _cpu(side, rounds, case="admit", tokens=tokens, cached=False, repeat=8)))
            sequences = min(64, blocks // 16)
            decode.append((blocks, _cpu(side, rounds, case="decode", sequences=sequences, steps=16, prompt=64)))
    return {"admit 1,024 cold, us CPU, by blocks": cold, "decode step of 64, us CPU, by blocks": decode}
