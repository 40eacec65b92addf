"""``quire bench trees OTHER``: the control plane of this source tree beside another one's, in the same run.

For changes that should cost nothing: ``OTHER`` is a worktree of an older commit with a ``.venv`` of its own. Each
tree's kvstore and client run the cases of ``quire bench control`` with their own code and interpreter. Other work on
the machine disturbs even CPU times, so the trees take turns of a few milliseconds, many for each case: a ratio is taken
within each pair of turns, of the CPU time of engine and kvstore together, and the median over the pairs counts.

Both kvstores run on one core and both clients on another, so that neither tree has the better place.

A tree from before ``attach`` was measured lacks that case: its client needs ``case_attach`` of ours.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.processes.kvprocess import KVProcess
from bench.processes.side import ROOT, Side, SideError
from bench.report.figures import Report, machine, median, percentile, say, table

from .control import Case, add_case_arguments, cases

SIDE_MODULES = ("bench.control.quire_side", "bench.control_quire")  # of this tree, of trees with a flat bench/
Pair = tuple[dict[str, float], dict[str, float]]  # this tree's figures, the other's
PARTS = ("cpu_us", "engine_cpu_us", "kvstore_cpu_us")
HEADER = [
    "case",
    "this tree, CPU us",
    "engine",
    "kvstore",
    "other tree",
    "engine",
    "kvstore",
    "this / other",
    "quartiles",
    "of the least",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("other", type=Path, help="the root of another source tree, with its own .venv")
    parser.add_argument("--pairs", type=int, default=41, help="pairs of turns for each case (default: 41)")
    add_case_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    settings = {key: getattr(arguments, key) for key in ("pairs", "blocks", "block_size")}
    report = Report("trees", {"other": arguments.other.name, **settings})
    figures = report.figures["cases"] = {}
    with contextlib.ExitStack() as stack:
        this, other = (
            stack.enter_context(_side(tree, arguments.blocks, arguments.block_size))
            for tree in (ROOT, arguments.other.resolve())
        )
        for name, case in _cases(arguments.quick).items():
            if arguments.only in name:
                say(f"{name} ...")
                for row, pairs in _pairs(name, case, (this, other), arguments.pairs).items():
                    figures[row] = _summary(pairs)
        for side in (this, other):
            side.ask(case="stop")
    report.tables.append(("One operation, microseconds of CPU", _table(figures)))
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


def _cases(quick: bool) -> dict[str, Case]:
    """The cases of ``quire bench control`` in shorter turns, and coming and going."""
    found = {"attach and detach": {"case": "attach", "repeat": 4}}
    for name, case in cases(quick).items():
        found[name] = {**case, "repeat": 4} if "repeat" in case else case
    return found


def _pairs(name: str, case: Case, sides: tuple[Side, Side], pairs: int) -> dict[str, list[Pair]]:
    """What the sides answered turn by turn, this tree's first; a first pair warms both and is thrown away."""
    turn = case
    if case["case"] == "decode":  # the same sequences go on decoding from turn to turn
        turn = {"case": "steps", "steps": case["steps"]}
        for side in sides:
            side.ask(case="prepare", sequences=case["sequences"], prompt=case["prompt"])
    rows: dict[str, list[Pair]] = defaultdict(list)
    for number in range(pairs + 1):
        order = sides if number % 2 else sides[::-1]
        answers = {side: side.ask(**turn) for side in order}
        for row, pair in _rows(name, answers[sides[0]], answers[sides[1]]):
            if number:
                rows[row].append(pair)
    if case["case"] == "decode":
        for side in sides:
            side.ask(case="drop")
    return rows


@contextlib.contextmanager
def _started_on(core: int) -> Iterator[None]:
    """Processes that are started meanwhile stay on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _side(tree: Path, blocks: int, block_size: int) -> Iterator[Side]:
    """A tree's client, on a kvstore of that tree."""
    python = sys.executable if tree == ROOT else str(tree / ".venv" / "bin" / "python")
    module = next((name for name in SIDE_MODULES if (tree / f"{name.replace('.', '/')}.py").is_file()), None)
    if module is None or not Path(python).exists():
        raise SideError(f"{tree} is no source tree of Quire with a .venv")
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        with _started_on(cores[0]):
            kvstore = stack.enter_context(KVProcess(blocks, block_size, python=python))
        command = [python, "-m", module, str(kvstore.directory), str(kvstore.pid)]
        with _started_on(cores[-1]):
            side = stack.enter_context(Side(tree.name, command, {"PYTHONPATH": str(tree)}, tree))
        yield side


def _rows(name: str, this: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Pair]]:
    """A case's row, and one of what it timed apart."""
    yield name, (this, other)
    if "then_index" in this:
        yield f"{name}, then index", (this["then_index"], other["then_index"])


def _summary(pairs: list[Pair]) -> dict[str, Any]:
    """Medians of both trees and of the ratio, its quartiles, and the ratio of the least times, for noise only adds."""
    ratios = [this["cpu_us"] / other["cpu_us"] for this, other in pairs]
    return {
        "this": {part: median(this[part] for this, _ in pairs) for part in PARTS},
        "other": {part: median(other[part] for _, other in pairs) for part in PARTS},
        "ratio": median(ratios),
        "quartiles": [percentile(ratios, 0.25), percentile(ratios, 0.75)],
        "of_least": min(this["cpu_us"] for this, _ in pairs) / min(other["cpu_us"] for _, other in pairs),
    }


def _table(figures: dict[str, Any]) -> str:
    return table(
        [
            [
                name,
                *(found["this"][part] for part in PARTS),
                *(found["other"][part] for part in PARTS),
                found["ratio"],
                "{:.2f} to {:.2f}".format(*found["quartiles"]),
                found["of_least"],
            ]
            for name, found in figures.items()
        ],
        HEADER,
    )
