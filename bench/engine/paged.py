"""``quire bench paged``: what pages bring, on one engine with one model and one byte budget for keys and values.

Three ways to hand out the same bytes, to requests that share nothing and arrive at random:

    static      each request reserves the longest sequence there may be; a batch starts when the one before has ended
    continuous  the same reservation; a request starts as soon as another has ended
    quire       blocks as tokens come, as the engine does it

A reservation of the longest sequence admits budget / longest requests at a time and wastes the rest of each: that
number of batch slots is what the first two get. Everything else, kernels and loop, is the same engine's. Lengths are
log-normal after a public trace of a chat service (prompts 1,155 and answers 211 tokens on the mean), scaled to 1,000
tokens in all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from bench.load.traces import lognormal
from bench.models.sizes import SIZES, kv_bytes_per_token, model_directory
from bench.processes.kvprocess import KVProcess
from bench.report.figures import Report, machine, median, percentile, say, table
from bench.report.plots import lines
from quire_engine.model.model import Model, load_model
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_proto.gateway_link import Generate, Sampling
from quire_proto.wire.u32 import pack_u32

from .inprocess import Script, layout_of_model, make_engine

MODES = ("static", "continuous", "quire")
AT_ONCE = 0.0  # rate: all requests are there from the start
MOST_SEQUENCES = 256
NORMALISED = "s / token: end-to-end time of a request over its output tokens (normalised latency)."
RateCurve = list[tuple[float, float]]
RateSamples = dict[tuple[str, float], list[dict[str, float]]]  # by mode and rate
SHOWN = {
    "running": "running",
    "output_tokens_per_s": "tokens/s",
    "normalised_s": "s / token p50",
    "normalised_p99_s": "p99",
    "ttft_p50_s": "TTFT p50",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--model", choices=tuple(SIZES), default="27m", help="random Llama of this size")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (0: torch's default)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens in a block (default: 16)")
    parser.add_argument("--budget", type=int, default=32768, help="KV budget, tokens (default: 32768)")
    parser.add_argument("--longest", type=int, default=4096, help="tokens a reservation is for (default: 4096)")
    parser.add_argument("--mean", type=int, default=1000, help="mean tokens of a request (default: 1000)")
    parser.add_argument("--requests", type=int, default=64, help="requests of a run (default: 64)")
    parser.add_argument("--rates", default="0,0.3,0.6,1.2", help="arrivals a second; 0: all at once")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved rounds (default: 5)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = Report("paged", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    report.settings["threads"] = torch.get_num_threads()
    report.settings["kv_mib"] = arguments.budget * kv_bytes_per_token(arguments.model) / 2**20
    report.settings["reserved_slots"] = arguments.budget // arguments.longest
    model = load_model(model_directory(arguments.model))
    rates = sorted(float(rate) for rate in arguments.rates.split(","))
    samples: RateSamples = {}
    for pair in range(arguments.pairs):
        for rate in rates:
            for mode in MODES if pair % 2 == 0 else MODES[::-1]:
                say(f"round {pair + 1}, rate {rate or 'all at once'}: {mode} ...")
                samples.setdefault((mode, rate), []).append(_one(model, arguments, mode, rate, pair))
            fill_report(report, samples)
            report.write(arguments.save)  # a run takes long: what is measured is kept
    if arguments.save:
        _plot(arguments.save, _medians(samples), rates)
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


def fill_report(report: Report, samples: RateSamples) -> None:
    """Put everything that was measured so far into the report."""
    figures = _medians(samples)
    report.figures["runs"] = [
        {"mode": mode, "rate": rate, "rounds": len(samples[mode, rate]), **found}
        for (mode, rate), found in figures.items()
    ]
    report.tables, report.notes = [], [NORMALISED]
    for rate in sorted({rate for _, rate in samples}):
        rows = [[mode, len(samples[mode, rate]), *(figures[mode, rate][key] for key in SHOWN)] for mode in MODES]
        heading = f"{rate:g} requests/s" if rate else "all requests at once"
        report.tables.append((heading, table(rows, ["mode", "rounds", *SHOWN.values()])))
        over = median(
            a["output_tokens_per_s"] / b["output_tokens_per_s"]
            for a, b in zip(samples["quire", rate], samples["static", rate], strict=True)
        )
        report.notes.append(f"Tokens/s, {heading}: quire / static = {over:.2f}.")
        if rate == AT_ONCE:
            report.figures["quire_over_static"] = over
    curves = _curves(figures, "normalised_s")
    if curves["static"]:
        sustained = report.figures["sustained"] = equal_latency(curves)
        report.tables.append(("requests/s at equal normalised latency", _sustained_table(sustained)))


def equal_latency(curves: dict[str, RateCurve]) -> list[dict[str, Any]]:
    """The rate each mode takes at the latencies that static batches have at the measured rates.

    ``over_static`` is that of blocks by that of static batches; ``at_least``: blocks took even the highest rate.
    """
    rows = []
    for rate, latency in curves["static"]:
        taken = {mode: rate_at(points, latency) for mode, points in curves.items()} | {"static": rate}
        most = curves["quire"][-1][0]
        over = taken["quire"] / rate if taken["quire"] else None
        rows.append({"latency_s": latency, **taken, "over_static": over, "at_least": taken["quire"] == most})
    return rows


def rate_at(points: RateCurve, latency: float) -> float | None:
    """The highest rate of a curve of (rate, latency) with no more than ``latency``, interpolated; None if even the
    lowest rate has more."""
    best = None
    for i, (rate, here) in enumerate(points):
        if here <= latency:
            best = rate
            if i + 1 < len(points) and points[i + 1][1] > latency:
                (next_rate, there) = points[i + 1]
                best = rate + (next_rate - rate) * (latency - here) / (there - here)
    return best


def _medians(samples: RateSamples) -> dict[tuple[str, float], dict[str, float]]:
    return {key: {name: median(s[name] for s in found) for name in found[0]} for key, found in samples.items()}


def _curves(figures: dict[tuple[str, float], dict[str, float]], name: str) -> dict[str, RateCurve]:
    """A figure of each mode by rate, without the run of all requests at once."""
    return {mode: sorted((r, found[name]) for (m, r), found in figures.items() if m == mode and r) for mode in MODES}


def _sustained_table(sustained: list[dict[str, Any]]) -> str:
    rows: list[list[object]] = []
    for row in sustained:
        over = row["over_static"]
        said = None if over is None else f"{'at least ' if row['at_least'] else ''}{over:.2f}"
        rows.append([f"{row['latency_s']:.3g} s", *(row[mode] for mode in MODES), said])
    return table(rows, ["latency", *MODES, "quire / static"])


def _one(model: Model, arguments: argparse.Namespace, mode: str, rate: float, seed: int) -> dict[str, float]:
    slots = max(1, arguments.budget // arguments.longest)
    script = Script(arrivals(arguments, rate, seed, model.vocab_size), batch=slots if mode == "static" else 0)
    limits = SchedulerLimits(MOST_SEQUENCES if mode == "quire" else slots, 2048, arguments.block_size)
    layout = layout_of_model(model_directory(arguments.model), arguments.block_size)
    with (
        tempfile.TemporaryDirectory() as directory,
        KVProcess(arguments.budget // arguments.block_size, arguments.block_size, layout) as kvstore,
    ):
        log = Path(directory) / "steps"
        make_engine(model, kvstore.directory, limits, layout, script, log).run()
        steps = [json.loads(line) for line in log.read_text().splitlines()]
    return _summary(script, steps)


def arrivals(arguments: argparse.Namespace, rate: float, seed: int, vocabulary: int) -> list[tuple[float, Generate]]:
    """Random prompts with Poisson arrivals; lengths and times depend on the seed, not on the mode."""
    rng = Random(f"paged/{seed}")
    scale = arguments.mean / (1155 + 211)
    found, now = [], 0.0
    for number in range(arguments.requests):
        now += rng.expovariate(rate) if rate else 0.0
        prompt = lognormal(rng, 950 * scale, 0.62, 8, arguments.longest // 2)
        output = lognormal(rng, 140 * scale, 0.9, 4, arguments.longest // 2 - 1)
        tokens = pack_u32(rng.randrange(7, vocabulary) for _ in range(prompt))
        sampling = Sampling(output, temperature=0.0, ignore_eos=True)
        found.append((now, Generate(str(number), "bench", tokens, sampling)))
    return found


def _summary(script: Script, steps: list[dict[str, Any]]) -> dict[str, float]:
    seen = list(script.seen.values())
    wrong = [one.finish for one in seen if one.finish != "length"]
    if wrong:
        raise RuntimeError(f"a request ended with {wrong[0]!r}")
    output = sum(len(one.text) for one in seen)
    span = max(one.tokens[-1] for one in seen) - min(one.due for one in seen)
    normalised = [(one.tokens[-1] - one.due) / len(one.text) for one in seen]
    return {
        "running": sum(step["running"] for step in steps) / len(steps),
        "output_tokens_per_s": output / span,
        "normalised_s": median(normalised),
        "normalised_p99_s": percentile(normalised, 0.99),
        "ttft_p50_s": median(one.tokens[0] - one.due for one in seen),
        "preemptions": float(steps[-1]["preemptions"]),
    }


def _plot(name: str, figures: dict[tuple[str, float], dict[str, float]], rates: list[float]) -> None:
    if not any(rates):
        return
    for file, key, title, unit in (
        (name, "normalised_s", "normalised latency", "s / output token"),
        (f"{name}-tokens", "output_tokens_per_s", "output rate", "tokens / s"),
        (f"{name}-running", "running", "running sequences", "sequences"),
    ):
        lines(file, f"{title} against request rate", ("requests / s", unit), _curves(figures, key))
