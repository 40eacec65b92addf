"""``quire bench serve``: agents' requests over HTTP, ours and a peer's server in turn on the whole machine.

For each workload and pair: our stack is started with the workload's shared prompts published but not computed, plays
the cold agents and then the warm ones, and is stopped; then the peer plays the same, once open and once with a salt
for each tenant, its prefix cache emptied before each. The order changes from pair to pair. Prompts differ between
pairs. Whichever side is not measured is stopped or idle. transformers' ``generate`` and ``generate_batch`` can be peers
too, without a server.
"""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from quire_engine.model import load_model

from .agents import WORKLOADS, Agent, Workload, make
from .figures import Report, machine, median, say, table
from .floor import Floor, workload_floor
from .load import agreement, play, summary
from .server_quire import Quire
from .server_transformers import MODES, Transformers, transformers
from .server_vllm import Vllm
from .servers import Elsewhere, Peak, Server
from .sizes import MAX_LEN, SIZES, kv_bytes_per_token, model_directory, words
from .stream import Answer

Answers = list[list[Answer]]
_TRANSFORMERS = {"transformers": MODES, **{f"transformers-{mode}": (mode,) for mode in MODES}}
SHOWN = {
    "output_tokens_per_s": "tokens/s", "ttft_p50_s": "TTFT p50", "ttft_p99_s": "p99", "inter_token_p50_s": "token p50",
    "inter_token_p99_s": "p99", "e2e_p50_s": "e2e p50", "e2e_p99_s": "p99", "prompt_tokens_computed": "computed",
    "peak_kv_mib": "peak KV MiB", "floor_share": "of the floor",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--workload", default="all", help=f"all, or some of {','.join(WORKLOADS)}")
    parser.add_argument("--peer", default="", help="vllm, transformers, transformers-generate, a server's URL; several")
    parser.add_argument("--peer-key", default="none", help="API key for a peer given as URL")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs (default: 5)")
    parser.add_argument("--model", choices=tuple(SIZES), default="27m", help="random Llama of this size")
    parser.add_argument("--kv-gib", type=float, default=2.0, help="GiB of keys and values on either side (default: 2)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on agents and lengths (default: 1)")
    parser.add_argument("--engines", type=int, default=1, help="engines of ours (default: 1)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads of an engine of ours (0: our default)")
    parser.add_argument("--peer-threads", default="auto", help="VLLM_CPU_OMP_THREADS_BIND, e.g. 0-1 (default: auto)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens in a block of ours (default: 16)")
    parser.add_argument("--max-batch-tokens", type=int, default=2048, help="token budget of our step (default: 2048)")
    parser.add_argument("--max-sequences", type=int, default=256, help="batch slots of our engine (default: 256)")
    parser.add_argument("--skip-ours", action="store_true", help="measure the peer alone")


def run(arguments: argparse.Namespace) -> Report:
    """Measure everything; returns the report."""
    names = WORKLOADS if arguments.workload == "all" else tuple(arguments.workload.split(","))
    unknown = set(names) - set(WORKLOADS)
    if unknown:
        raise SystemExit(f"quire bench serve: no workload {', '.join(sorted(unknown))}")
    report = Report("serve", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    model_directory(arguments.model)
    with contextlib.ExitStack() as stack:
        bench = _Bench(arguments, report)
        for peer in filter(None, arguments.peer.split(",")):
            say(f"starting {peer} ...")
            bench.join(peer, stack)
        for name in names:
            bench.measure(name)
            report.write(arguments.save)  # a run takes long: what is measured is kept
    report.machine["load_1m_after"] = machine()["load_1m"]
    report.notes.append(
        "Of the floor: matrix products and attention of the tokens a side computed and drew, at the rates measured in"
        " this run on all cores, over the time it took. transformers: no HTTP; generate plays a few agents, one by one."
    )
    report.notes.append("KV bytes: blocks held by running requests and publications; ours from the kvstore's stats.")
    return report


def _server(name: str, arguments: argparse.Namespace) -> Server:
    if name == "vllm":
        directory = model_directory(arguments.model)
        return Vllm(directory, int(arguments.kv_gib * 2**30), arguments.peer_threads, MAX_LEN)
    return Elsewhere(name, arguments.peer_key)


class _Bench:
    """One run: the peers that stay up, and what was seen."""

    def __init__(self, arguments: argparse.Namespace, report: Report) -> None:
        self._arguments, self._report = arguments, report
        self._servers: list[Server] = []
        self._transformers: Transformers | None = None
        self._modes: tuple[str, ...] = ()
        self._floor: Floor = workload_floor(load_model(model_directory(arguments.model)))
        rates = {"chunk": self._floor.chunk, "step": self._floor.step, "head": self._floor.head}
        report.figures["floor_gflops"] = {name: rate / 1e9 for name, rate in rates.items()}

    def join(self, name: str, stack: contextlib.ExitStack) -> None:
        """Start a peer, which stays up until ``stack`` is left."""
        if name in _TRANSFORMERS:
            self._modes = _TRANSFORMERS[name]
            directory, size = model_directory(self._arguments.model), self._arguments.model
            kv_bytes = int(self._arguments.kv_gib * 2**30)
            self._transformers = stack.enter_context(transformers(directory, kv_bytes, kv_bytes_per_token(size)))
            self._report.settings["transformers_settings"] = self._transformers.settings
        else:
            server = stack.enter_context(_server(name, self._arguments))
            self._servers.append(server)
            self._report.settings[f"{server.name}_settings"] = server.settings

    def measure(self, name: str) -> None:
        """All pairs of one workload; its table goes into the report."""
        samples: dict[str, list[dict[str, Any]]] = {}
        agreements = []
        for pair in range(self._arguments.pairs):
            workload = make(name, pair, words(self._arguments.model), self._arguments.scale)
            sides = self._sides(pair)
            texts: dict[str, Answers] = {}
            for side in sides:
                say(f"{name}, pair {pair + 1}: {side} ...")
                for phase, figures, answers in self._one(side, workload):
                    samples.setdefault(f"{side} {phase}", []).append(figures)
                    texts.setdefault(side, answers)
            ours = texts.pop("quire", [])
            if workload.cold[0].greedy:
                agreements += [agreement(ours, theirs) for theirs in texts.values() if len(theirs) == len(ours)]
        figures = {side: _medians(found) for side, found in samples.items()}
        self._report.figures[name] = {
            "sides": figures,
            "ratios": _ratios(samples),
            "agreement": agreements,
            "samples": samples,
        }
        self._report.tables.append((name, _table(figures)))
        if ratios := _ratios(samples):
            self._report.tables.append((f"{name}: ours / peer", _ratio_table(ratios)))
        if agreements:
            equal = median(found["equal"] for found in agreements)
            self._report.notes.append(f"{name}: {equal:.0%} of the greedy answers are equal, token by token.")

    def _sides(self, pair: int) -> list[str]:
        sides = [] if self._arguments.skip_ours else ["quire"]
        for server in self._servers:
            sides += [f"{server.name} open", f"{server.name} isolated"]
        if self._transformers is not None:
            sides += [f"transformers {mode}" for mode in self._modes]
        return sides if pair % 2 == 0 else sides[::-1]

    def _one(self, side: str, workload: Workload) -> list[tuple[str, dict[str, Any], Answers]]:
        """Cold and warm figures of one side."""
        if side == "quire":
            with self._quire(workload) as server:
                self._report.settings["quire_settings"] = server.settings
                return self._phases(server, workload, isolated=True)
        name, _, way = side.partition(" ")
        if name == "transformers":
            return self._without_server(way, workload)
        server = next(server for server in self._servers if server.name == name)
        server.forget()
        return self._phases(server, workload, isolated=way == "isolated")

    def _without_server(self, mode: str, workload: Workload) -> list[tuple[str, dict[str, Any], Answers]]:
        """Only cold: neither mode keeps anything between calls."""
        assert self._transformers is not None
        self._transformers.play(mode, self._warm_up())
        answers = self._transformers.play(mode, workload.cold)
        figures = self._summary(answers)
        if mode == "generate_batch":  # its prefix cache hits inside a call, but does not say how much
            del figures["prompt_tokens_computed"], figures["floor_share"]
        return [("cold", figures, answers)]

    def _summary(self, answers: Answers) -> dict[str, Any]:
        figures = summary(answers)
        return {**figures, "floor_share": self._floor.seconds(answers) / figures["span_s"]}

    def _quire(self, workload: Workload) -> Quire:
        a = self._arguments
        options = {"engines": a.engines, "block_size": a.block_size, "max_batch_tokens": a.max_batch_tokens}
        options |= {"max_sequences": a.max_sequences, "threads": a.threads}
        block_bytes = kv_bytes_per_token(a.model) * a.block_size
        return Quire(model_directory(a.model), int(a.kv_gib * 2**30), block_bytes, workload.shared, options)

    def _phases(self, server: Server, workload: Workload, isolated: bool) -> list[tuple[str, dict[str, Any], Answers]]:
        target = server.target(isolated)
        play(self._warm_up(), target)
        found = []
        for phase, agents in (("cold", workload.cold), ("warm", workload.warm)):
            with Peak(server) as peak:
                answers = play(agents, target)
            found.append((phase, {**self._summary(answers), "peak_kv_mib": peak.bytes / 2**20}, answers))
        return found

    def _warm_up(self) -> tuple[Agent, ...]:
        """A few unrelated requests: first calls allocate, compile and connect."""
        return make("private", -1, words(self._arguments.model), 0.1).cold


def _medians(samples: list[dict[str, Any]]) -> dict[str, float]:
    return {key: median(sample[key] for sample in samples) for key in samples[0]}


def _ratios(samples: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Ours / peer within each pair, medians over the pairs."""
    found: dict[str, dict[str, float]] = {}
    for name, theirs in samples.items():
        side, _, phase = name.rpartition(" ")
        ours = samples.get(f"quire {phase}")
        if side == "quire" or ours is None:
            continue
        found[f"{side} {phase}"] = {
            key: median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True) if b.get(key))
            for key in SHOWN
            if any(sample.get(key) for sample in theirs)
        }
    return found


def _table(figures: dict[str, dict[str, float]]) -> str:
    rows: list[list[object]] = [[side, *(found.get(key) for key in SHOWN)] for side, found in sorted(figures.items())]
    return table(rows, ["side", *SHOWN.values()])


def _ratio_table(ratios: dict[str, dict[str, float]]) -> str:
    rows: list[list[object]] = [[side, *(found.get(key) for key in SHOWN)] for side, found in sorted(ratios.items())]
    return table(rows, ["against", *SHOWN.values()])
