"""Starts: seconds from nothing to a ready stack, and from the end of an engine to its successor's being ready; and what
each engine has of memory that no other has.

Three ways in turn on the same machine: engines forked from a process that has their imports done; engines executed
anew; and forked ones that each load their own weights, where the others map what the first engine of all has written.
Each way starts a stack twice, the first time with no weights kept. What a stack does, it does with everything else at
rest.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.models.sizes import SIZES, model_directory
from bench.report.figures import Report, median, table
from bench.servers.server import free_port
from quire_kv import KVReader, QuireError

FORKED, EXECUTED, OWN = "forked", "executed", "own weights"
WAYS = (FORKED, EXECUTED, OWN)
PROGRAM = """
import sys
from quire_services.stack import serve
if sys.argv.pop(1) == "executed":
    serve.can_fork_engines = lambda: False
sys.exit(serve.main(sys.argv[1:]))
"""
FIRST, NEXT, RESTART = "first", "next", "restart"
WHAT = {
    FIRST: "a stack, until all engines are ready; no weights kept yet",
    NEXT: "the same stack once more",
    RESTART: "a killed engine, until the next one is ready",
}
KILLS = 3
LIMIT_S = 120.0
MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bench's options."""
    parser.add_argument("--model", choices=tuple(SIZES), default="smollm2", help="the model (default: smollm2)")
    parser.add_argument("--dtype", default="auto", help="what it computes in (default: auto)")
    parser.add_argument("--engines", type=int, default=2, help="engines of each stack (default: 2)")
    parser.add_argument("--pairs", type=int, default=3, help="times that each way is measured, in turn (default: 3)")


@dataclass(frozen=True, slots=True)
class _Stack:
    """One stack; what it logs is thrown away."""

    run_dir: Path
    began: float

    def wait(self, engines: int, but: int = 0) -> float:
        """The moment at which so many engines are ready of which none is the process ``but``."""
        limit = time.monotonic() + LIMIT_S
        while time.monotonic() < limit:
            ready = self.ready()
            if len(ready) == engines and but not in ready:
                return time.monotonic()
            time.sleep(0.01)
        raise TimeoutError("the stack is not ready")

    def ready(self) -> list[int]:
        """Processes of ready engines."""
        with suppress(QuireError, OSError), KVReader(self.run_dir) as reader:
            return [session.pid for session in reader.stats().sessions if session.state == "ready"]
        return []


@contextmanager
def _stack(way: str, arguments: argparse.Namespace, scratch: Path) -> Iterator[_Stack]:
    """A stack that has just been started, ended at the end."""
    run_dir = scratch / "run"
    weights = "none" if way == OWN else str(scratch / "weights")
    flags = [
        f"--model={model_directory(arguments.model)}", f"--dtype={arguments.dtype}", f"--engines={arguments.engines}",
        f"--run-dir={run_dir}", f"--port={free_port()}", f"--weights-dir={weights}", "--blocks=512", "--threads=1",
    ]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, way, *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield _Stack(run_dir, began)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def run(arguments: argparse.Namespace) -> Report:
    """Measure, and tell."""
    seconds, own = defaultdict[tuple[str, str], list[float]](list), defaultdict[tuple[str, int], list[float]](list)
    kept: list[float] = []
    for _ in range(arguments.pairs):
        for way in WAYS:
            with tempfile.TemporaryDirectory(prefix="quire-bench-") as scratch:
                for what in (FIRST, NEXT):
                    with _stack(way, arguments, Path(scratch)) as stack:
                        seconds[way, what].append(stack.wait(arguments.engines) - stack.began)
                        if what == FIRST:
                            continue
                        for number, pid in enumerate(stack.ready()):
                            own[way, number].append(private_bytes(pid) / MIB)
                        for _ in range(KILLS):
                            killed, began = stack.ready()[0], time.monotonic()
                            os.kill(killed, signal.SIGKILL)
                            seconds[way, RESTART].append(stack.wait(arguments.engines, but=killed) - began)
                kept += [file.stat().st_size / MIB for file in Path(scratch).glob("weights/*.weights")]
    return _report(arguments, seconds, own, kept)


def private_bytes(pid: int) -> int:
    """Memory of a process that no other process has: what would be free if it ended, but for the page cache."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def _report(
    arguments: argparse.Namespace,
    seconds: dict[tuple[str, str], list[float]],
    own: dict[tuple[str, int], list[float]],
    kept: list[float],
) -> Report:
    report = Report("starts", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    rows: list[list[Any]] = []
    for what, text in WHAT.items():
        found = [median(seconds[way, what]) for way in WAYS]
        rows.append([text, *found, found[0] / found[1], found[0] / found[2], len(seconds[FORKED, what])])
    columns = ["seconds, medians", *WAYS, "forked / executed", "forked / own weights", "times"]
    report.tables.append(("Starts", table(rows, columns)))
    memory: list[list[Any]] = []
    for number in range(arguments.engines):
        found = [median(own[way, number]) for way in WAYS]
        memory.append([f"engine {number + 1}", *found])
    report.tables.append(("Memory of each engine alone", table(memory, ["MiB, medians", *WAYS])))
    report.figures = {f"{what}, {way}": values for (way, what), values in seconds.items()}
    report.figures |= {f"private MiB of engine {number + 1}, {way}": values for (way, number), values in own.items()}
    if kept:
        last, whole = arguments.engines - 1, median(kept)
        saved = median(own[OWN, last]) - median(own[FORKED, last])
        report.figures["kept MiB"] = kept
        report.notes.append(
            f"Kept once: {whole:.0f} MiB of converted and packed weights. The last engine has {saved:.0f} MiB less for"
            " itself than where each loads its own; so it still has"
            f" {max(0.0, 1 - saved / whole):.1%} of them for itself."
        )
    return report
