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

from quire_engine.model import Model, load_model
from quire_engine.scheduler import SchedulerLimits
from quire_proto.link import Generate, Sampling
from quire_proto.packed import pack

from .figures import Report, machine, median, percentile, say, table
from .inprocess import Script, layout_of_model, make_engine
from .kvprocess import KVProcess
from .plots import lines
from .sizes import SIZES, kv_bytes_per_token, model_directory
from .workloads import lognormal

MODES = ("static", "continuous", "quire")
AT_ONCE = 0.0  # rate: all requests are there from the start
MOST_SEQUENCES = 256
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
    parser.add_argument("--rates", default="0,0.5,1,2", help="arrivals a second; 0: all at once (default: 0,0.5,1,2)")
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
    rates = [float(rate) for rate in arguments.rates.split(",")]
    samples: dict[tuple[str, float], list[dict[str, float]]] = {}
    for pair in range(arguments.pairs):
        for rate in rates:
            for mode in MODES if pair % 2 == 0 else MODES[::-1]:
                say(f"round {pair + 1}, rate {rate or 'all at once'}: {mode} ...")
                samples.setdefault((mode, rate), []).append(_one(model, arguments, mode, rate, pair))
    figures = {key: {name: median(s[name] for s in found) for name in found[0]} for key, found in samples.items()}
    report.figures["runs"] = [{"mode": mode, "rate": rate, **found} for (mode, rate), found in figures.items()]
    for rate in rates:
        rows = [[mode, *(figures[mode, rate][key] for key in SHOWN)] for mode in MODES]
        heading = f"{rate:g} requests/s" if rate else "all requests at once"
        report.tables.append((heading, table(rows, ["mode", *SHOWN.values()])))
    if AT_ONCE in rates:
        report.figures["quire_over_static"] = median(
            a["output_tokens_per_s"] / b["output_tokens_per_s"]
            for a, b in zip(samples["quire", AT_ONCE], samples["static", AT_ONCE], strict=True)
        )
        report.notes.append(f"Tokens/s, all at once: quire / static = {report.figures['quire_over_static']:.2f}.")
    report.notes.append("s / token: end-to-end time of a request over its output tokens (normalised latency).")
    if arguments.save:
        _plot(arguments.save, figures, rates)
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


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
        tokens = pack(rng.randrange(7, vocabulary) for _ in range(prompt))
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
    timed = [rate for rate in rates if rate]
    curves = {mode: [(rate, figures[mode, rate]["normalised_s"]) for rate in timed] for mode in MODES}
    lines(name, "normalised latency against request rate", ("requests / s", "s / output token"), curves)
