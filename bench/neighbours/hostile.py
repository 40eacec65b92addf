"""``quire bench hostile``: what one tenant's hostile bodies and floods cost another tenant, and the gateway's memory.

For each attack a stack of its own is started, with one engine and a tokenizer of real size (`hostile_model.py`). A
second tenant lives beside it in another process (`victim.py`), in rounds: first alone, then under the attack,
until its stream, the gateway's health and its small requests have all gone on again. Times are medians of the rounds'
worst, ratios are taken within a round. The gateway's peak memory is what the kernel noted for it since an attack began,
the largest of all rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.processes.side import ROOT, Side, SideError
from bench.report.figures import Report, median, say, table
from bench.servers.server import Server, free_port, status

from .attacks import BODIES, FLOODS, AttackedGateway, Send, StatusCounts
from .hostile_model import fragment, hostile_model_directory

BOUND_MS = 100.0
ATTACKER, VICTIM = "key-of-the-attacker", "key-of-the-victim"
COLUMNS = {
    "attack": "attack",
    "answers": "answered",
    "alone_ms": "gap alone ms",
    "gap_ms": "worst gap ms",
    "ratio": "ratio",
    "health_ms": "/health ms",
    "first_token_ms": "first token ms",
    "stands": "stands",
    "refused": "victim refused",
    "lag_ms": "own lag ms",
    "memory_mib": "gateway MiB",
    "peak_mib": "peak MiB",
    "log_kib": "log KiB",
}


class AttackedStack(Server):
    """``quire serve`` of this environment, or of the packages in another checkout."""

    name = "quire"

    def __init__(self, model: Path, engines: int, source: str) -> None:
        self.port, self._gateway = free_port(), 0
        flags = [f"--model={model}", f"--port={self.port}", f"--engines={engines}", "--threads=1", "--blocks=4096"]
        command = [sys.executable, "-P", "-m", "quire_services.cli", "serve", *flags]
        folders = ("proto", "kvstore", "kernels", "engine", "services")
        path = {"PYTHONPATH": os.pathsep.join(str(Path(source, folder)) for folder in folders)} if source else {}
        super().__init__(command, {"HF_HUB_OFFLINE": "1", **path}, {})
        tenants = {"attacker": ATTACKER, "victim": VICTIM}
        lines = [f'[[tenants]]\nname = "{name}"\nkeys = ["{key}"]\n' for name, key in tenants.items()]
        configuration = self.directory / "quire.toml"
        configuration.write_text("".join(lines))
        configuration.chmod(0o600)
        self._command += [f"--config={configuration}", f"--run-dir={self.directory / 'run'}"]

    def ready(self) -> bool:
        """An engine is attached, and the gateway found."""
        if status(self.port, "/health") != 200:
            return False
        self._gateway = self._gateway or self._find()
        return bool(self._gateway)

    def _find(self) -> int:
        assert self._process is not None
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if os.getsid(int(entry.name)) == self._process.pid and b"gateway" in arguments:
                    return int(entry.name)
        return 0

    def log_bytes(self) -> int:
        """What the stack has logged so far."""
        return (self.directory / "log").stat().st_size

    def memory(self) -> dict[str, float]:
        """MiB of the gateway, now (``VmRSS``) and at its peak (``VmHWM``); empty if it is gone."""
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{self._gateway}/status").read_text().splitlines()
            split = (line.split() for line in lines if line.startswith("Vm"))
            return {words[0].rstrip(":"): int(words[1]) / 1024 for words in split}
        return {}

    def forget_peak(self) -> None:
        """Count the peak from here on."""
        Path(f"/proc/{self._gateway}/clear_refs").write_text("5")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--only", default="", help="attacks whose names contain one of these words, by commas")
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="of a quiet time and an attack, on the same stack")
    parser.add_argument("--quiet-s", type=float, default=3.0, help="seconds without an attack, before each")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for an attack, and for what comes after it")
    parser.add_argument("--source", default="", help="checkout to measure (default: the packages of this environment)")


def run(arguments: argparse.Namespace) -> Report:
    """All attacks, each on a stack of its own."""
    report = Report("hostile", {name: v for name, v in vars(arguments).items() if name not in ("json", "save")})
    if arguments.source:
        asked = ["git", "-C", arguments.source, "rev-parse", "--short", "HEAD"]
        report.settings["source"] = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    words = [word for word in arguments.only.split(",") if word]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rows = []
    for kind, attacks in (("body", BODIES), ("flood", FLOODS)):
        for name, make in attacks.items():
            if words and not any(word in name for word in words):
                continue
            rows.append({"kind": kind, "attack": name, **_measure(make, arguments)})
            say(", ".join(f"{title} {_short(rows[-1][key])}" for key, title in COLUMNS.items()))
            _fill(report, rows)
            report.write(arguments.save)
    if not rows:
        raise SideError(f"no attack is called {arguments.only!r}; there are {', '.join([*BODIES, *FLOODS])}")
    return report


def _short(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _fill(report: Report, rows: list[dict[str, Any]]) -> None:
    late = [row for row in rows if row["gap_ms"] >= BOUND_MS]
    report.figures = {"rows": rows, "bound_ms": BOUND_MS, "gaps_beyond_bound": [row["attack"] for row in late]}
    alone = [one["quiet"] for row in rows for one in row["rounds"]]
    quiet = {name: median(one[name] for one in alone) for name in ("gap_ms", "health_ms", "first_token_ms")}
    report.tables[:] = [
        (
            "Another tenant beside bodies" if kind == "body" else "Another tenant beside floods",
            table([[row[key] for key in COLUMNS] for row in rows if row["kind"] == kind], list(COLUMNS.values())),
        )
        for kind in dict.fromkeys(row["kind"] for row in rows)
    ]
    report.notes[:] = [
        f"Gaps of {BOUND_MS:.0f} ms and more: {', '.join(row['attack'] for row in late) or 'none'}.",
        f"Without an attack, median of all rounds: worst gap {quiet['gap_ms']:.0f} ms, "
        f"/health {quiet['health_ms']:.0f} ms, first token {quiet['first_token_ms']:.0f} ms.",
        "Own lag: how late a timer of the measuring process came; the machine's part of the figures before it.",
        "Stands: what had not gone on within the limit, so that its true value is larger.",
    ]


def _measure(make: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """One attack on a stack of its own: medians over the rounds."""
    model = hostile_model_directory()
    with AttackedStack(model, arguments.engines, arguments.source) as stack:
        send = make(AttackedGateway(stack.port, ATTACKER, model.name, fragment(model)))
        command = [sys.executable, "-m", "bench.neighbours.victim", str(stack.port), VICTIM, model.name]
        with Side("victim", command, {"PYTHONPATH": str(ROOT)}) as victim:
            time.sleep(1.0)  # the first requests of all: imports, first compilations
            rounds: list[dict[str, Any]] = []
            while len(rounds) < arguments.rounds and (not rounds or not rounds[-1]["stands"]):
                rounds.append(_round(stack, victim, send, arguments))
    return attack_summary(rounds)


def _round(stack: AttackedStack, victim: Side, send: Send, arguments: argparse.Namespace) -> dict[str, Any]:
    """Quiet, then attacked."""
    victim.ask(op="begin")
    time.sleep(arguments.quiet_s)
    quiet = _milliseconds(victim.ask(op="end", within_s=arguments.limit))
    stack.forget_peak()
    logged = stack.log_bytes()
    victim.ask(op="begin")
    answers = asyncio.run(_limited(send, arguments.limit))
    time.sleep(1.0)
    seen = _milliseconds(victim.ask(op="end", within_s=arguments.limit))
    memory = stack.memory()
    return {
        **seen,
        "answers": ", ".join(f"{count} x {what}" for what, count in answers.most_common()),
        "alone_ms": quiet["gap_ms"],
        "ratio": seen["gap_ms"] / max(quiet["gap_ms"], 1.0),
        "memory_mib": memory.get("VmRSS"),
        "peak_mib": memory.get("VmHWM"),
        "log_kib": (stack.log_bytes() - logged) / 1024,
        "quiet": quiet,
    }


def attack_summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of what is measured, the largest memory; None if the gateway was gone. Texts are listed once."""
    found: dict[str, Any] = {"rounds": rounds}
    for name, last in rounds[-1].items():
        values = [one[name] for one in rounds]
        if name == "quiet":
            continue
        if any(value is None for value in values):
            found[name] = None
        elif isinstance(last, str):
            found[name] = "; ".join(dict.fromkeys(filter(None, values))) or "-"
        else:
            found[name] = max(values) if name.endswith("mib") else median(values)
    return found


def _milliseconds(seen: dict[str, Any]) -> dict[str, Any]:
    times = {name.removesuffix("_s") + "_ms": 1000 * seen.pop(name) for name in list(seen) if name.endswith("_s")}
    refused = ", ".join(f"{count} x {what}" for what, count in seen.pop("refused").items())
    counts = [refused, f"{seen['broken']} streams" if seen["broken"] else ""]
    seen["stands"] = ", ".join(seen["stands"])
    return {**times, **seen, "refused": ", ".join(filter(None, counts)) or "-"}


async def _limited(send: Send, limit_s: float) -> StatusCounts:
    try:
        async with asyncio.timeout(limit_s):
            return await send()
    except TimeoutError:
        return StatusCounts({"no end": 1})
