"""``quire bench targets``: which targets the results on disk meet, and by how much the others are missed.

Nothing is measured here. Each file under ``bench/results`` is asked for the targets that its bench can speak for; a
target whose peer or case is not in a file gets no row from it. A peer that ran out of time has no figures, so no row:
the file's notes say below which rate it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.processes.side import SideError

from . import figures
from .figures import Report, table

PROMPT_ONCE = ("shared-prompt", "herd")  # workloads of one prompt that isolated tenants compute each for themselves
RATE, FIRST, PROMPT = "output_tokens_per_s", "ttft_p50_s", "prompt_kv_mib"
WHOLE = 0.005  # an eighth measured as 0.1253 is an eighth


@dataclass(frozen=True, slots=True)
class Target:
    """``found`` is to be at least ``wanted``, or at most where ``most``."""

    what: str
    wanted: float
    found: float
    most: bool = False

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.found <= self.wanted + WHOLE * self.wanted if self.most else self.found >= self.wanted


def serve(found: dict[str, Any]) -> Iterator[Target]:
    """Against vLLM and transformers, and the floor."""
    for workload, measured in found.items():
        if "ratios" not in measured:
            continue
        ratios = measured["ratios"]
        isolated = ratios.get("vllm isolated cold", {}) if workload in PROMPT_ONCE else {}
        for key, what, wanted in (
            (RATE, "tokens/s", 2.0),
            (FIRST, "TTFT p50", 0.5),
            (PROMPT, "KV of the prompt", 1 / 8),
        ):
            phases = ratios.get("vllm isolated warm", {}) if key == PROMPT else isolated
            if workload in PROMPT_ONCE and key in phases:
                yield Target(f"{workload}, {what}, ours / vLLM isolated", wanted, phases[key], most=key != RATE)
        for phase in ("cold", "warm"):
            if RATE in ratios.get(f"vllm open {phase}", {}):
                wanted = 1.2 if workload == "branch" else 1.0
                yield Target(
                    f"{workload}, tokens/s, ours / vLLM open, {phase}", wanted, ratios[f"vllm open {phase}"][RATE]
                )
        for mode, wanted in (("generate", 25.0), ("generate_batch", 1.0)):
            against = ratios.get(f"transformers {mode} cold", {})
            if RATE in against and (mode == "generate_batch" or workload == "shared-prompt"):
                yield Target(f"{workload}, tokens/s, ours / transformers {mode}", wanted, against[RATE])
        ours = measured["sides"].get("quire cold", {})
        for key, whose in (("floor_share", "the floor"), ("torch_floor_share", "the floor of torch's operations")):
            if key in ours:
                yield Target(f"{workload}, our share of {whose}, cold", 0.7, ours[key])


def paged(found: dict[str, Any]) -> Iterator[Target]:
    """Blocks against static reservations."""
    if "quire_over_static" in found:
        yield Target("tokens/s, all at once, blocks / static", 2.0, found["quire_over_static"])
    for row in found.get("sustained", []):
        if row["over_static"] is not None:
            least = ", at least" if row["at_least"] else ""
            what = f"rate at the latency static has at {row['static']:g}/s, blocks / static{least}"
            yield Target(what, 2.0, row["over_static"])


def control(found: dict[str, Any]) -> Iterator[Target]:
    """The control plane against vLLM's manager, and its clients."""
    cases = found.get("cases", {})
    for name, wanted in (("decode step, 256 sequences", 1 / 20), ("admit 2200 cold", 1 / 4)):
        if "ratio" in cases.get(name, {}):
            yield Target(f"{name}, CPU, ours / vLLM", wanted, cases[name]["ratio"], most=True)
    if "decode step, 256 sequences" in cases:
        wall = cases["decode step, 256 sequences"]["ours"]["wall_p99_us"]
        yield Target("decode step, 256 sequences, p99 in us", 1000.0, wall, most=True)
    clients = {row["clients"]: row for row in found.get("clients", [])}
    if 1 in clients and 4 in clients:
        yield Target("steps/s, 4 clients / 1", 1.4, clients[4]["against_one"])
        cost = "kvstore_cpu_us_per_message"
        most = max(row[cost] for row in clients.values()) / clients[1][cost]
        yield Target("kvstore CPU a message, dearest number of clients / 1", 1.0, most, most=True)


def scale(found: dict[str, Any]) -> Iterator[Target]:
    """Near-linear or better."""
    for what, curve in found.items():
        if curve["exponent"] is not None:
            yield Target(f"exponent of {what}", 1.1, curve["exponent"], most=True)


BENCHES: dict[str, Callable[[dict[str, Any]], Iterator[Target]]] = {
    "serve": serve,
    "paged": paged,
    "control": control,
    "scale": scale,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("names", nargs="*", help="results, by name without .json (default: all)")


def run(arguments: argparse.Namespace) -> Report:
    """Read the results; returns the report."""
    names = arguments.names or sorted(file.stem for file in figures.RESULTS.glob("*.json"))
    report = Report("targets", {"results": ", ".join(names)})
    rows: list[list[object]] = []
    for name in names:
        for target in of_file(name):
            sign = "<=" if target.most else ">="
            rows.append([name, target.what, f"{sign} {target.wanted:.3g}", target.found, "yes" if target.met else "no"])
            report.figures.setdefault(name, {})[target.what] = target.found
    report.tables.append(("Targets", table(rows, ["result", "target", "wanted", "found", "met"])))
    return report


def of_file(name: str) -> list[Target]:
    """The targets that one result can speak for; raises SideError where there is none of that name."""
    try:
        found = json.loads((figures.RESULTS / f"{name}.json").read_text())
    except (OSError, ValueError) as error:
        raise SideError(f"result {name!r}: {error}") from None
    return list(BENCHES.get(found.get("bench", ""), lambda _: iter(()))(found["figures"]))
