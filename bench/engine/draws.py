"""``quire bench draws``: what it costs to draw a token from what top-k, top-p and min-p leave.

Logits of a vocabulary's size with one row or several, drawn by the engine's rule and by one that sorts them all in
float64, in turn; both draw the same tokens, which is counted. Time is the thread's own, so that it says little of a
neighbour. No model runs.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from typing import Any

import torch

from bench.report.figures import Report, machine, median, say, table
from quire_engine.sampling.filtered import draw_filtered
from quire_engine.sequences.sample_row import SampleRow

VOCABULARIES, ROWS = (49_152, 151_936), (1, 8)
# top-k (0: none), top-p, min-p
FILTERS = {"top-p 0.9": (0, 0.9, 0.0), "top-k 40, top-p 0.95": (40, 0.95, 0.0), "min-p 0.05": (0, 1.0, 0.05)}
SPREAD = 4.0  # of the logits: a few tokens have most of the mass, as in a model's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--pairs", type=int, default=9, help="interleaved rounds (default: 9)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    torch.set_num_threads(1)
    report = Report("draws", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    found = [_measure(*case, arguments.pairs) for case in product(VOCABULARIES, ROWS, FILTERS)]
    report.figures["cases"] = found
    columns = ("vocabulary", "rows", "filters", "sorted_ms", "ours_ms", "ratio")
    headings = ["vocabulary", "rows", "filters", "all sorted, ms", "ours, ms", "ratio"]
    report.tables.append(
        ("drawing a step's tokens, one thread", table([[one[c] for c in columns] for one in found], headings))
    )
    same, drawn = (sum(one[name] for one in found) for name in ("same", "drawn"))
    report.notes.append(f"Medians of the thread's time over the rounds. Both ways draw {same} of {drawn} tokens alike.")
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


def _measure(vocabulary: int, number: int, filters: str, pairs: int) -> dict[str, Any]:
    say(f"{number} rows of {vocabulary}, {filters} ...")
    top_k, top_p, min_p = FILTERS[filters]
    rows = [SampleRow(1.0, top_k, top_p, min_p, 0, 0, place) for place in range(number)]
    times: tuple[list[float], list[float]] = ([], [])
    same = 0
    for pair in range(pairs):
        draw = torch.Generator().manual_seed(pair)
        logits = torch.randn(number, vocabulary, generator=draw) * SPREAD
        uniforms = torch.rand(number, 1, dtype=torch.float64, generator=draw)
        tokens = []
        for way, spent in zip((_sorted, draw_filtered), times, strict=True):
            began = time.thread_time()
            tokens.append(way(logits, rows, uniforms))
            spent.append(1000 * (time.thread_time() - began))
        same += int((tokens[0] == tokens[1]).sum())
    return {
        "vocabulary": vocabulary,
        "rows": number,
        "filters": filters,
        "sorted_ms": median(times[0]),
        "ours_ms": median(times[1]),
        "ratio": median(a / b for a, b in zip(*times, strict=True)),
        "same": same,
        "drawn": pairs * number,
    }


def _sorted(logits: torch.Tensor, rows: list[SampleRow], uniforms: torch.Tensor) -> torch.Tensor:
    """The same draw with all tokens in order."""
    probs, order = torch.softmax(logits.double(), dim=1).sort(dim=1, descending=True, stable=True)
    how = torch.tensor([[row.top_k or logits.shape[1], row.top_p, row.min_p] for row in rows], dtype=torch.float64)
    top_k, top_p, min_p = how.hsplit(3)
    rank = torch.arange(probs.shape[1]).expand_as(probs)
    probs = probs * ((probs >= min_p * probs[:, :1]) & (rank < top_k))
    cumulative = probs.cumsum(dim=1)
    probs = probs * ((cumulative - probs < top_p * cumulative[:, -1:]) | (rank == 0))
    cumulative = probs.cumsum(dim=1)
    place = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    return order.gather(1, torch.minimum(place, (probs > 0).sum(dim=1, keepdim=True) - 1)).squeeze(1)
