"""kvstore processes over recorded driver calls, in one run directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quire_proto.wire.layout import Layout
from tests.support.repository import ROOT
from tests.support.waits import wait_for

LAYOUT = Layout("tiny", "w0", "{}", "", "bfloat16", 4, 2, 2, 8)
BLOCKS = 64
SIZE = LAYOUT.arena_bytes(BLOCKS)
START_S = 30.0
# Environment of children that import from tests/.
CHILD = os.environ | {"PYTHONPATH": str(ROOT)}


class Kvstore:
    """Starts kvstores, one after the other, in ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        run_dir.mkdir(mode=0o700)
        self._prepared = run_dir.with_suffix(".json")
        self._prepared.write_text(json.dumps({"layout": asdict(LAYOUT)}))
        self._log = run_dir.with_suffix(".log")
        self.calls = run_dir.with_suffix(".calls")

    def start(self, arena: str, grace_ms: int = 20_000, wait: bool = True, **recorder: object) -> None:
        """Start one with this arena and recorder."""
        recording = json.dumps({"log": str(self.calls), **recorder})
        command = [
            sys.executable,
            "-m",
            "tests.kvstore.host.cuda_arena.recorded_kvstore",
            recording,
            f"--run-dir={self.run_dir}",
        ]
        command += [f"--prepared={self._prepared}", f"--blocks={BLOCKS}", f"--arena={arena}", "--debug"]
        with self._log.open("a") as log:
            self.process = subprocess.Popen([*command, f"--fence-grace-ms={grace_ms}"], stderr=log, env=CHILD)
        if wait:
            started = len(self.events("kvstore_started"))
            wait_for(
                lambda: len(self.events("kvstore_started")) > started or self.process.poll() is not None,
                "it starts",
                START_S,
            )
            assert self.process.poll() is None, self.log()

    def log(self) -> str:
        """All that was logged."""
        return self._log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of that event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def roster(self) -> list[int]:
        """Pids in the roster of mappers."""
        path = self.run_dir / "mappers.json"
        return [pid for pid, _ in json.loads(path.read_text())["mappers"]] if path.exists() else []

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        return self.process.wait(START_S)
