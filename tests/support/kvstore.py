"""The kvstore processes of tests: one way to start one, to stop it, and to start it again after it was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from quire_proto.client.client import KVReader
from quire_proto.messages import Stats
from quire_proto.wire.layout import Layout
from tests.support.repository import child_environ
from tests.support.service import LAYOUT
from tests.support.waits import DEADLINE_S, wait_for

PROGRAM = (sys.executable, "-P", "-m", "quire_services.daemons.kvstored")
PUBLISHED = ({"id": "p", "domain": "public", "tokens": list(range(10))},)
UNENDING_MS = 600_000
START_S = 30.0


class Kvstore:
    """A kvstore in a run directory, life after life.

    Attributes:
        process: of its latest life.
        log: the file that all its lives write to.
    """

    def __init__(
        self,
        run_dir: Path,
        *flags: str,
        blocks: int = 64,
        layout: Layout = LAYOUT,
        published: Iterable[Mapping[str, Any]] = PUBLISHED,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """Nothing runs before :meth:`start`. With 0 ``blocks`` the ``flags`` say how large the pool is.

        A lease is as good as for ever unless ``flags`` say otherwise: a raw client sends no heartbeat of its own, and
        on a busy machine the shortest exchange may take seconds.
        """
        run_dir.mkdir(mode=0o700, exist_ok=True)
        self.run_dir = run_dir
        self.log = run_dir / "log"
        self.process: subprocess.Popen[bytes]
        prepared = run_dir / "prepared.json"
        prepared.write_text(json.dumps({"layout": asdict(layout), "published": list(published)}))
        self._command = [*program, f"--run-dir={run_dir}", f"--prepared={prepared}", "--debug"]
        self._command += [f"--blocks={blocks}"] if blocks else []
        self._command += [f"--lease-ms={UNENDING_MS}", *flags]  # of a flag that is given twice the last counts

    def start(self, *flags: str, wait: bool = True) -> Self:
        """Start it, with these flags for this life only; ``wait``: return once it serves."""
        before = len(self.events("kvstore_started")) if wait else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *flags], stderr=log, stdout=subprocess.DEVNULL, env=child_environ()
            )

        def serves() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return len(self.events("kvstore_started")) > before

        if wait:
            wait_for(serves, "the kvstore serves", START_S)
        return self

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """What it logged so far, in all its lives: lines of one event, or all."""
        text = self.log.read_text() if self.log.exists() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if name in ("", line["event"])]

    def logged_at(self, name: str) -> list[float]:
        """When it logged an event (s since the epoch)."""
        return [datetime.fromisoformat(event["timestamp"]).timestamp() for event in self.events(name)]

    def stats(self) -> Stats:
        """Its own counters."""
        with KVReader(self.run_dir) as reader:
            return reader.stats()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it if it still runs; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def stop(self) -> None:
        """End it cleanly: one that found a broken invariant would not exit with 0."""
        if self.process.poll() == -signal.SIGKILL:
            self.start()  # the next life removes what a killed one left behind
        if self.process.poll() is None:
            assert self.end() == 0, self.log.read_text()
