"""``quire bench families``: which of transformers' architectures are served, by trying each.

A tiny random checkpoint of every architecture with a causal language model, and of every one that reads images and
writes text, goes the way of a real one (``trial``). Each is tried in a process of its own, forked when all libraries
are loaded: some take memory without end, some never return, and loading a model patches its modelling file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections import Counter
from multiprocessing.pool import AsyncResult
from pathlib import Path

import torch

from bench.report.figures import Report, say, table

from .cases import all_cases
from .trial import DIFFERS, EQUAL, GAP, REFUSED, Candidate, Outcome, try_case

LIMIT_S = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--only", default="", metavar="NAME,...", help="these cases alone")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (default: 2)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help=f"seconds for a case (default: {LIMIT_S:g})")


def run(arguments: argparse.Namespace) -> Report:
    """Try all cases; returns the report."""
    report = Report("families", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    cases = all_cases()
    wanted = [name for name in arguments.only.split(",") if name] or list(cases)
    outcomes = try_all([cases[name] for name in wanted], arguments.jobs, arguments.limit)
    counts = Counter(outcome.verdict for outcome in outcomes)
    report.figures["outcomes"] = {outcome.name: [outcome.verdict, outcome.said] for outcome in outcomes}
    report.figures["counts"] = dict(counts)
    private = {outcome.name: outcome.private for outcome in outcomes if outcome.private}
    report.figures["weights not shared"] = private
    for verdict in (EQUAL, DIFFERS, REFUSED, GAP):
        rows = [[outcome.name, outcome.said] for outcome in outcomes if outcome.verdict == verdict]
        if rows:
            report.tables.append((f"{verdict}: {len(rows)}", table(rows, ["case", "what came of it"])))
    report.notes += [
        f"{counts[EQUAL]} of {len(outcomes)} load and give transformers' own tokens; {counts[DIFFERS]} load and differ;"
        f" {counts[REFUSED]} are refused; {counts[GAP]} are gaps, which say nothing either way.",
        f"{counts[EQUAL] - len(private)} of {counts[EQUAL]} were asked as the second engine of a host, over the weights"
        " that the first had written" + "".join(f"; not {name}: {why}" for name, why in sorted(private.items())) + ".",
        "A case's answers are compared token by token: 6 prompts of 1 to 200 tokens, 20 greedy tokens each.",
    ]
    return report


def try_all(cases: list[Candidate], jobs: int, limit_s: float) -> list[Outcome]:
    """Outcomes in the order of ``cases``, each from a forked process of its own."""
    torch.set_num_threads(1)  # the models are tiny: more would wait for each other
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool,
    ):
        asked = [pool.apply_async(try_case, (case, Path(folder) / case.name)) for case in cases]
        outcomes = []
        for case, answer in zip(cases, asked, strict=True):
            outcomes.append(_awaited(case, answer, limit_s))
            say(f"{case.name}: {outcomes[-1].verdict}: {outcomes[-1].said}")
        pool.terminate()
    return outcomes


def _awaited(case: Candidate, answer: AsyncResult[Outcome], limit_s: float) -> Outcome:
    try:
        return answer.get(limit_s)
    except multiprocessing.TimeoutError:
        return Outcome(case.name, GAP, f"no outcome within {limit_s:g} s")
