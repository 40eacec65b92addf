"""``quire bench branch``: blocks that parallel samples and beams of one prompt save by sharing them.

Requests whose lengths are drawn around those of two data sets are answered by the engine's own loop, with ``n`` samples
or so many beams each. In every step the kvstore is asked for two of its counts: blocks held, each once, and references
to them, which is what the same sequences would hold if none shared a block with another. The saving is one minus the
ratio of their sums over a run: blocks saved over blocks without sharing, as the paper on PagedAttention (Kwon et al.,
SOSP 2023, section 6.3) counts it. Prompts are random, so requests share nothing with each other.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from bench.engine.inprocess import Script, layout_of_model, make_engine
from bench.load.traces import lognormal
from bench.models.tiny import FIRST_WORD, make_model
from bench.processes.kvprocess import KVProcess
from bench.report.figures import Report, percentile, say, table
from quire_engine.kv.kv_session import KvSession
from quire_engine.model.model import Model, load_model
from quire_engine.scheduling.scheduler import Scheduler, SchedulerLimits
from quire_engine.scheduling.step_log import StepLog
from quire_engine.sequences.step_plan import Work
from quire_kv import KVReader
from quire_proto.gateway_link import Generate, Sampling
from quire_proto.wire.u32 import pack_u32

VOCABULARY = 512
SHORTEST, LONGEST = 4, 1024
SPREAD = 0.8  # of the logarithms of lengths
WIDTHS = (2, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of prompts and answers of a data set, what the paper saved there (per cent), and which part of the
    requests is measured."""

    prompt: float
    output: float
    parallel: str
    beam: str
    part: float = 1.0


DATA_SETS = {
    "alpaca": Lengths(19.31, 58.45, "6.1 - 9.8", "37.6 - 55.2"),
    "sharegpt": Lengths(161.31, 337.99, "16.2 - 30.5", "44.3 - 66.3", part=1 / 3),
}


@dataclass(slots=True)
class Counts:
    """Sums over the steps of a run: blocks held, and entries of tables, which without sharing are as many blocks."""

    steps: int = 0
    held: int = 0
    entries: int = 0
    most_held: int = 0
    most_entries: int = 0
    copies: int = 0
    forks: int = 0


class CountingLog(StepLog):
    """Asks the kvstore for its counts in every step, when the step's message has been answered."""

    def __init__(self, reader: KVReader) -> None:
        super().__init__(None)
        self.counts = Counts()
        self._reader = reader

    def write(self, kv: KvSession, scheduler: Scheduler, work: list[Work]) -> None:  # noqa: ARG002 - what a log is told
        """Look at the kvstore."""
        stats, counts = self._reader.stats(), self.counts
        # A source of a copy is referred to until the copy is acknowledged, with the next message.
        copying = stats.counters["copies"] - counts.copies
        held, entries = stats.blocks["held"], sum(session.blocks for session in stats.sessions) - copying
        counts.copies, counts.forks = stats.counters["copies"], stats.counters["forks"]
        counts.steps += 1
        counts.held += held
        counts.entries += entries
        counts.most_held = max(counts.most_held, held)
        counts.most_entries = max(counts.most_entries, entries)


class BranchScript(Script):
    """A script whose requests end with each of their continuations."""

    def __init__(self, requests: list[Generate]) -> None:
        super().__init__((0.0, request) for request in requests)
        self._running = sum(request.n - 1 for request in requests)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--n", type=int, default=8, help="most parallel samples (default: 8)")
    parser.add_argument("--beam", type=int, default=6, help="most beams (default: 6)")
    parser.add_argument("--requests", type=int, default=24, help="of a run, a third of them long ones (default: 24)")
    parser.add_argument("--slots", type=int, default=64, help="sequences at a time (default: 64)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens of a block (default: 16)")
    parser.add_argument("--data", choices=("all", *DATA_SETS), default="all", help="lengths like these (default: all)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    torch.set_num_threads(1)  # the model is tiny: more would wait for each other
    report = Report("branch", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    names = tuple(DATA_SETS) if arguments.data == "all" else (arguments.data,)
    with tempfile.TemporaryDirectory() as folder:
        directory = make_model(Path(folder) / "model", vocab=VOCABULARY, max_len=2 * LONGEST)
        model = load_model(directory)
        report.settings["model"] = f"random Llama, {sum(p.numel() for p in model.module.parameters()):,} weights, fp32"
        rows: list[list[object]] = []
        for name in names:
            for kind, most in (("parallel", arguments.n), ("beam", arguments.beam)):
                for width in (width for width in WIDTHS if width <= most):
                    say(f"{name}: {kind} {width} ...")
                    found = _one(model, directory, arguments, DATA_SETS[name], kind, width, name)
                    report.figures[f"{name}/{kind}/{width}"] = found
                    rows.append([name, kind, width, *(found[key] for key in _SHOWN), getattr(DATA_SETS[name], kind)])
    report.tables.append(("blocks, means over a run", table(rows, _HEADINGS)))
    report.notes += [
        "Prompts and answers are as long as drawn, log-normal (sigma 0.8) around the means of the paper's data sets: "
        "ShareGPT 161 and 338 tokens, Alpaca 19 and 58; from 4 to 1,024. The figures have what was drawn. No answer "
        "ends earlier.",
        "Blocks are counted by the kvstore in every step: `blocks.held` of its `stats`, and `blocks` of its sessions, "
        "less the sources of copies under way. Unfull last blocks of sequences count on both sides.",
        "The paper's figures are for OPT-13B, blocks of 16 tokens, widths 2, 4 and 6. What beams share depends on how "
        "soon a model's beams have one parent: here it is a random model's.",
    ]
    return report


_SHOWN = ("prompt_mean", "output_mean", "held", "unshared", "saved_percent", "copies")
_HEADINGS = ["lengths", "kind", "width", "prompt", "answer", "blocks", "without sharing", "saved, %", "blocks copied",
             "paper, %"]  # fmt: skip


def _one(
    model: Model, directory: Path, arguments: argparse.Namespace, lengths: Lengths, kind: str, width: int, seed: str
) -> dict[str, Any]:
    asked = branch_requests(lengths, kind, width, max(1, int(arguments.requests * lengths.part)), seed)
    layout = layout_of_model(directory, arguments.block_size)
    blocks = arguments.slots * (2 * LONGEST // arguments.block_size + 2)
    with KVProcess(blocks, arguments.block_size, layout) as kvstore, KVReader(kvstore.directory) as reader:
        script, log = BranchScript(asked), CountingLog(reader)
        limits = SchedulerLimits(arguments.slots, 512, arguments.block_size)
        make_engine(model, kvstore.directory, limits, layout, script, log).run()
    if wrong := [one.finish for one in script.seen.values() if one.finish != "length"]:
        raise RuntimeError(f"a request ended with {wrong[0]!r}")
    counts = log.counts
    drawn = {
        "prompt": [len(request.tokens) // 4 for request in asked],
        "output": [request.sampling.max_tokens for request in asked],
    }
    return {
        "held": counts.held / counts.steps,
        "unshared": counts.entries / counts.steps,
        "saved_percent": 100 * (1 - counts.held / counts.entries),
        "peak_held": counts.most_held,
        "peak_unshared": counts.most_entries,
        "steps": counts.steps,
        "forks": counts.forks,
        "copies": counts.copies,
        **{f"{what}_mean": sum(values) / len(values) for what, values in drawn.items()},
        **{f"{what}_p50": percentile(values, 0.5) for what, values in drawn.items()},
        **{f"{what}_max": max(values) for what, values in drawn.items()},
    }


def branch_requests(lengths: Lengths, kind: str, width: int, count: int, seed: str) -> list[Generate]:
    """Requests of these lengths, the same for every kind and width."""
    rng, found = Random(f"branch/{seed}"), []
    for number in range(count):
        prompt = _length(rng, lengths.prompt)
        output = _length(rng, lengths.output)
        tokens = pack_u32(rng.randrange(FIRST_WORD, VOCABULARY) for _ in range(prompt))
        beams = width if kind == "beam" else 0
        how = Sampling(output, temperature=1.0, seed=number, ignore_eos=True, beam_width=beams)
        found.append(Generate(str(number), "bench", tokens, how, n=width))
    return found


def _length(rng: Random, mean: float) -> int:
    """A length around this mean."""
    return lognormal(rng, mean / 2.718281828 ** (SPREAD**2 / 2), SPREAD, SHORTEST, LONGEST)
