"""Starts: seconds from nothing to a ready stack, and from the end of an engine to its successor's being ready.

Both ways in turn on the same machine: engines forked from a process that has their imports done, and engines executed
anew. What a stack does, it does with everything else at rest.
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
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.models.sizes import SIZES, model_directory
from bench.report.figures import Report, median, table
from bench.servers.server import free_port
from quire_kv import KVReader, QuireError

WAYS = ("forked", "executed")
PROGRAM = """
import sys
from quire_services.stack import serve
if sys.argv.pop(1) == "executed":
    serve.can_fork_engines = lambda: False
sys.exit(serve.main(sys.argv[1:]))
"""
WHAT = {"start": "a stack, until all engines are ready", "restart": "a killed engine, until the next one is ready"}
KILLS = 3
LIMIT_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bench's options."""
    parser.add_argument("--model", choices=tuple(SIZES), default="smollm2", help="the model (default: smollm2)")
    parser.add_argument("--engines", type=int, default=2, help="engines of each stack (default: 2)")
    parser.add_argument("--pairs", type=int, default=3, help="stacks of each kind, in turn (default: 3)")


class _Stack:
    """One stack; what it logs is thrown away."""

    def __init__(self, way: str, model: Path, engines: int, directory: Path) -> None:
        self._run_dir = directory / "run"
        arguments = [
            f"--model={model}", f"--engines={engines}", f"--run-dir={self._run_dir}", f"--port={free_port()}",
            "--blocks=512", "--threads=1",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, way, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

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
        with suppress(QuireError, OSError), KVReader(self._run_dir) as reader:
            return [session.pid for session in reader.stats().sessions if session.state == "ready"]
        return []

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


def run(arguments: argparse.Namespace) -> Report:
    """Measure, and tell."""
    model, found = model_directory(arguments.model), defaultdict[tuple[str, str], list[float]](list)
    for _ in range(arguments.pairs):
        for way in WAYS:
            with tempfile.TemporaryDirectory(prefix="quire-bench-") as directory:
                began = time.monotonic()
                stack = _Stack(way, model, arguments.engines, Path(directory))
                try:
                    found[way, "start"].append(stack.wait(arguments.engines) - began)
                    for _ in range(KILLS):
                        killed, began = stack.ready()[0], time.monotonic()
                        os.kill(killed, signal.SIGKILL)
                        found[way, "restart"].append(stack.wait(arguments.engines, but=killed) - began)
                finally:
                    stack.stop()
    return _report(arguments, found)


def _report(arguments: argparse.Namespace, found: dict[tuple[str, str], list[float]]) -> Report:
    report = Report("starts", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    rows: list[list[Any]] = []
    for what, text in WHAT.items():
        forked, executed = (median(found[way, what]) for way in WAYS)
        rows.append([text, forked, executed, forked / executed, len(found["forked", what])])
    report.figures = {f"{what}, {way}": seconds for (way, what), seconds in found.items()}
    report.tables = [("Starts", table(rows, ["seconds, medians", *WAYS, "ratio", "times"]))]
    return report
