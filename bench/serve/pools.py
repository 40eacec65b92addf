"""``quire bench pools``: two engines on one pool, against two engines with a pool of half the size each.

The same agents play on three arrangements with the same bytes and the same two engines:

- *one pool*: our stack with two engines; shared prompts are published;
- *split*: two stacks of one engine, half the bytes each, shared prompts published in both;
- *split, nothing shared*: the same without publications, so that each tenant computes every prompt for itself.

With two stacks agents are dealt out in turn, eight at a time, as by a load balancer that knows nothing of prompts: each
tenant comes to both. Every request comes twice (*cold*, then *warm* with new questions), so that a pool which can hold
what it computed shows it.
"""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from bench.load.agents import WORKLOADS, Workload, make
from bench.load.generator import play, play_cold, play_summary
from bench.models.sizes import SIZES, kv_bytes_per_token, model_directory, words
from bench.report.figures import Report, machine, median, say, table
from bench.servers.quire import Quire
from bench.servers.server import Peak

ENGINES = 2
WAYS = ("one pool", "split", "split, nothing shared")
SHOWN = {
    "hit_rate": "hit rate", "output_tokens_per_s": "tokens/s", "ttft_p50_s": "TTFT p50", "e2e_p50_s": "e2e p50",
    "prompt_tokens_computed": "computed", "peak_kv_mib": "peak KV MiB",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--workload", default="rag,shared-prompt", help=f"some of {','.join(WORKLOADS)}")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--model", choices=tuple(SIZES), default="27m", help="random Llama of this size")
    parser.add_argument("--kv-gib", type=float, default=3.0, help="GiB of keys and values in all (default: 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on agents and lengths (default: 1)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens in a block (default: 16)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each engine (default: 1)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    report = Report("pools", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    report.settings["engines"] = ENGINES
    for name in arguments.workload.split(","):
        samples: dict[str, list[dict[str, Any]]] = {}
        for pair in range(arguments.pairs):
            workload = make(name, pair, words(arguments.model), arguments.scale)
            for way in WAYS if pair % 2 == 0 else WAYS[::-1]:
                say(f"{name}, round {pair + 1}: {way} ...")
                for phase, found in _one(arguments, way, workload).items():
                    samples.setdefault(f"{way}, {phase}", []).append(found)
        figures = {key: {name: median(s[name] for s in found) for name in found[0]} for key, found in samples.items()}
        report.figures[name] = {"sides": figures, "samples": samples}
        rows: list[list[object]] = [[way, *(found[key] for key in SHOWN)] for way, found in sorted(figures.items())]
        report.tables.append((name, table(rows, ["arrangement", *SHOWN.values()])))
        report.write(arguments.save)
    report.machine["load_1m_after"] = machine()["load_1m"]
    report.notes.append("Hit rate: prompt tokens that were not computed, of all prompt tokens.")
    return report


def _one(arguments: argparse.Namespace, way: str, workload: Workload) -> dict[str, dict[str, Any]]:
    """Figures of both phases of one arrangement."""
    stacks = 1 if way == "one pool" else ENGINES
    options = {"engines": ENGINES // stacks, "block_size": arguments.block_size, "threads": arguments.threads}
    block_bytes = kv_bytes_per_token(arguments.model) * arguments.block_size
    published = () if way.endswith("nothing shared") else workload.shared
    kv_bytes = int(arguments.kv_gib * 2**30) // stacks
    found = {}
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(Quire(model_directory(arguments.model), kv_bytes, block_bytes, dict(options)))
            for _ in range(stacks)
        ]
        targets = [server.target(isolated=True) for server in servers]

        def publish() -> None:
            for server in servers:
                server.publish(published)

        play(make("private", -1, words(arguments.model), 0.1).cold, *targets)
        for phase, agents in (("cold", workload.cold), ("warm", workload.warm)):
            with contextlib.ExitStack() as sampling:
                peaks = [sampling.enter_context(Peak(server)) for server in servers]
                answers = play_cold(publish, agents, *targets) if phase == "cold" else play(agents, *targets)
            figures = play_summary(answers)
            figures["hit_rate"] = 1 - figures["prompt_tokens_computed"] / figures["prompt_tokens"]
            found[phase] = {**figures, "peak_kv_mib": sum(peak.bytes for peak in peaks) / 2**20}
    return found
