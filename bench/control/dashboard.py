"""Dashboard: how often a viewer of the live picture gets news of a busy pool, and what that costs the kvstore.

A kvstore with many blocks, a client that takes and gives back a third of them again and again, a gateway with an admin
port, and one viewer that reads the stream as a browser does.
"""

from __future__ import annotations

import argparse
import http.client
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from bench.models.sizes import model_directory
from bench.processes.kvprocess import KVProcess, cpu_ns, tiny_layout
from bench.processes.side import SideError
from bench.report.figures import Report, percentile, table
from bench.servers.server import HOST, free_port
from quire_kv import KVClient

BLOCK_SIZE = 16
PAUSE_S = 0.01  # between two changes
START_S = 60.0
PICTURE = b"event: pool\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--blocks", type=int, default=100_000, help="of the pool (default: 100,000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="without a viewer, and with one (default: 20)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    report = Report("dashboard", {k: v for k, v in vars(arguments).items() if k not in ("json", "save")})
    rows: list[list[object]] = []
    with KVProcess(arguments.blocks, BLOCK_SIZE) as kvstore, gateway(kvstore.directory) as (admin, pid):
        with KVClient(kvstore.directory, name="bench", layout=tiny_layout(BLOCK_SIZE)) as client:
            for watched in (False, True):
                viewer = Viewer(admin, kvstore.directory) if watched else None
                began, used = time.monotonic(), (cpu_ns(kvstore.pid), cpu_ns(pid))
                changes = _change(client, arguments.blocks // 3, arguments.seconds)
                took = time.monotonic() - began
                shares = [
                    (now - then) / took / 1e7
                    for now, then in zip((cpu_ns(kvstore.pid), cpu_ns(pid)), used, strict=True)
                ]
                seen = [at for at, _ in viewer.seen if at >= began] if viewer else []
                gaps = [after - before for before, after in pairwise(seen)]
                found = {
                    "changes_per_s": changes / took,
                    "pictures_per_s": len(seen) / took,
                    "gap_p50_ms": percentile(gaps, 0.5) * 1000 if gaps else None,
                    "gap_p99_ms": percentile(gaps, 0.99) * 1000 if gaps else None,
                    "kvstore_cpu": shares[0],
                    "gateway_cpu": shares[1],
                }
                report.figures["watched" if watched else "alone"] = found
                rows.append(["watched" if watched else "alone", *found.values()])
    header = ["", "changes a second", "pictures a second", "gap p50, ms", "p99", "kvstore, % of a core", "gateway"]
    report.tables = [(f"{arguments.blocks:,} blocks", table(rows, header))]
    return report


def _change(client: KVClient, blocks: int, seconds: float) -> int:
    """Two sequences take turns with a third of the pool each; the number of changes."""
    over, number = time.monotonic() + seconds, 0
    while time.monotonic() < over:
        number += 1
        client.allocate(number, f"tenant-{number % 7}", blocks * BLOCK_SIZE)
        if number > 1:
            client.free([number - 1])
        time.sleep(PAUSE_S)
    client.free([number])
    return 2 * number


@contextmanager
def gateway(run_dir: Path) -> Iterator[tuple[int, int]]:
    """A gateway over the kvstore: its admin port, and its pid."""
    admin = free_port()
    command = [
        sys.executable, "-P", "-m", "quire_services.cli", "gateway", f"--model={model_directory('tiny')}",
        f"--run-dir={run_dir}", f"--port={free_port()}", f"--admin-port={admin}",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            limit = time.monotonic() + START_S
            while _status(admin, run_dir) != 200:
                if process.poll() is not None or time.monotonic() > limit:
                    log.seek(0)
                    raise SideError(f"the gateway does not start: {log.read()[-500:].decode(errors='replace')}")
                time.sleep(0.1)
            yield admin, process.pid
        finally:
            process.terminate()
            process.wait()


def _headers(run_dir: Path) -> dict[str, str]:
    return {"authorization": f"Bearer {(run_dir / 'admin.token').read_text().strip()}"}


def _status(admin: int, run_dir: Path) -> int:
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(HOST, admin, timeout=5)
        connection.request("GET", "/admin/pool", headers=_headers(run_dir))
        return connection.getresponse().status
    return 0


class Viewer:
    """One who reads the stream, from its first picture on.

    Attributes:
        seen: when each picture had come (monotonic), and its bytes.
    """

    def __init__(self, admin: int, run_dir: Path) -> None:
        self.seen: list[tuple[float, int]] = []
        self._connection = http.client.HTTPConnection(HOST, admin, timeout=30)
        self._connection.request("GET", "/admin/live", headers=_headers(run_dir))
        self._answer = self._connection.getresponse()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        kind, size = b"", 0
        with suppress(OSError, http.client.HTTPException, ValueError):
            for line in self._answer:
                kind = line if line.startswith(b"event:") else kind
                size += len(line)
                if line == b"\n":
                    if kind == PICTURE:
                        self.seen.append((time.monotonic(), size))
                    size = 0
