"""``quire bench metrics``: what it costs that metrics may be read, and are, and that every request is traced as well.

Three stacks, the same but for that, are played the same agents in turn; each idles while another plays:

- *off*: nobody may read metrics, so the times of answers are not taken;
- *metrics*: they are taken, and every page is scraped every five seconds, thrice as often as Prometheus does by itself;
- *traces*: that, and every request is traced, gateway to kvstore, and told to a collector that keeps nothing.

Prompts are cached after the first play, so that nearly all there is to do is to generate tokens: what is done for each
of them weighs most then. Tokens per second are what an agent sees; processor time per token says the same with less
noise: that of the collector is not in it. What the kvstore and engines count for metrics is counted either way, and is
in no difference.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bench.load.agents import make
from bench.load.generator import play, play_summary
from bench.models.sizes import SIZES, kv_bytes_per_token, model_directory, words
from bench.report.figures import Report, machine, median, say, table
from bench.servers.quire import Quire
from bench.servers.server import Repeated, get
from bench.servers.span_sink import SpanSink

WAYS = OFF, METRICS, TRACES = "off", "metrics", "traces"
TICKS = os.sysconf("SC_CLK_TCK")
SHOWN = {"output_tokens_per_s": "tokens/s", "cpu_ms_per_token": "CPU ms/token", "inter_token_p50_s": "token p50"}


class MeteredQuire(Quire):
    """A stack whose metrics are read, or may not be. ``spans``: where its traces are sent."""

    def __init__(self, way: str, spans: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        if way == TRACES:
            self._command.append(f"--otlp-traces-endpoint={spans}")
        if way == OFF:
            self._command = [word for word in self._command if not word.startswith("--admin-port")]
            self._command.append("--metrics-networks=")

    def cpu_s(self) -> float:
        """Processor time of all its processes so far: its supervisor's, and of what that started."""
        assert self._process is not None
        spent, parents = dict[int, float](), dict[int, int]()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                spent[int(entry.name)] = (int(fields[11]) + int(fields[12])) / TICKS
        total = 0.0
        for pid, seconds in spent.items():
            while pid not in (0, self._process.pid):
                pid = parents.get(pid, 0)
            total += seconds if pid else 0.0
        return total

    def scrape(self) -> float:
        """Read every page; seconds that it took."""
        began = time.perf_counter()
        for target in json.loads(get(self._port, "/metrics/targets")):
            get(self._port, target["labels"]["__metrics_path__"])
        return time.perf_counter() - began


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--pairs", type=int, default=15, help="interleaved rounds (default: 15)")
    parser.add_argument("--each-s", type=float, default=5.0, help="seconds between two scrapes (default: 5)")
    parser.add_argument("--engines", type=int, default=1, help="engines of each stack (default: 1)")
    parser.add_argument("--model", choices=tuple(SIZES), default="27m", help="random Llama of this size")
    parser.add_argument("--kv-gib", type=float, default=1.0, help="GiB of keys and values (default: 1)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on agents and lengths (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each engine (default: 1)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    report = Report("metrics", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    workload = make("private", 0, words(arguments.model), arguments.scale)
    options = {"engines": arguments.engines, "threads": arguments.threads, "block_size": 16}
    block_bytes = kv_bytes_per_token(arguments.model) * 16
    samples: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    scrapes: list[float] = []
    with ExitStack() as stack:
        sink = stack.enter_context(SpanSink())
        servers = {
            way: stack.enter_context(
                MeteredQuire(
                    way,
                    sink.url,
                    model_directory(arguments.model),
                    int(arguments.kv_gib * 2**30),
                    block_bytes,
                    dict(options),
                )
            )
            for way in samples
        }
        for way, server in servers.items():
            say(f"{way}: prompts for the cache ...")
            play(workload.cold, server.target(isolated=True))
        for pair in range(arguments.pairs):
            say(f"round {pair + 1} ...")
            for turn in range(len(WAYS)):
                way = WAYS[(pair + turn) % len(WAYS)]
                with ExitStack() as reading:
                    if way != OFF:
                        scrape = servers[way].scrape
                        reading.enter_context(Repeated(arguments.each_s, lambda s=scrape: scrapes.append(s())))
                    samples[way].append(_one(servers[way], workload.warm))
    return _told(report, samples, scrapes)


def _one(server: MeteredQuire, agents: Any) -> dict[str, float]:
    before = server.cpu_s()
    figures = play_summary(play(agents, server.target(isolated=True)))
    spent = server.cpu_s() - before
    return {**figures, "cpu_ms_per_token": 1000 * spent / figures["output_tokens"]}


def _told(report: Report, samples: dict[str, list[dict[str, float]]], scrapes: list[float]) -> Report:
    rows: list[list[object]] = [
        [way, *(median(one[key] for one in found) for key in SHOWN)] for way, found in samples.items()
    ]
    ratios = {
        f"{way} / off": {
            key: median(one[key] / off[key] for off, one in zip(samples[OFF], samples[way], strict=True))
            for key in SHOWN
        }
        for way in (METRICS, TRACES)
    }
    rows += [[f"{name}, of rounds", *(f"{of[key]:.4f}" for key in SHOWN)] for name, of in ratios.items()]
    report.figures = {"samples": samples, "ratios": ratios, "scrape_s": scrapes}
    report.tables.append(("metrics and traces", table(rows, ["", *SHOWN.values()])))
    if scrapes:
        report.notes.append(f"A scrape of all pages took {1000 * median(scrapes):.0f} ms (median).")
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report
