"""The processes of a chaos run: a kvstore that is started again when it was killed, and engines likewise.

Each engine's lines are read by a thread. None may end by itself: an end that we did not cause is noted as a failure.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quire_proto.client.client import KVReader
from quire_proto.messages import SessionInfo, Stats
from quire_proto.wire.errors import QuireError
from tests.chaos.engine import LAYOUT, PUBLISHED
from tests.support.kvstore import Kvstore
from tests.support.repository import child_environ
from tests.support.waits import wait_for

LEASE_MS, GRACE_MS, BLOCKS = 1000, 500, 192
PATIENCE_S = 30.0
ENVIRONMENT = child_environ(OMP_NUM_THREADS="1")


class ChaosError(AssertionError):
    """Something that must not happen, or that did not happen in time."""


class Member:
    """An engine process, life after life."""

    def __init__(self, run_dir: Path, name: str, seed: int) -> None:
        self.run_dir, self.name, self._seed = run_dir, name, seed
        self.totals: dict[str, int] = {}
        self.steps: list[tuple[float, float]] = []  # (when, ms)
        self.foreign: list[str] = []
        self.start()

    def start(self) -> None:
        """A new life, with other random numbers."""
        self._seed += 1000
        command = [sys.executable, "-m", "tests.chaos.engine", str(self.run_dir), self.name, str(self._seed)]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def send(self, number: int) -> None:
        """Signal it."""
        self.process.send_signal(number)

    def gone(self) -> int:
        """Wait for its end; its status."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join()
        return status

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        last: dict[str, Any] = {}
        with process.stdout:
            for text in process.stdout:
                last = json.loads(text)
                self.steps += [(last["t"], ms) for ms in last.pop("step_ms")]
                if last["event"].startswith("foreign"):
                    self.foreign.append(last["event"])
        for key, value in last.items():
            if isinstance(value, int):
                self.totals[key] = self.totals.get(key, 0) + value


class Stage:
    """Kvstore and engines of one run directory."""

    def __init__(self, run_dir: Path, engines: int, seed: int) -> None:
        self.run_dir = run_dir
        published = [{"id": "p", "domain": "public", "tokens": PUBLISHED}]
        flags = (f"--lease-ms={LEASE_MS}", f"--fence-grace-ms={GRACE_MS}")
        self.kvstore = Kvstore(run_dir, *flags, blocks=BLOCKS, layout=LAYOUT, published=published).start(wait=False)
        self.reader = KVReader(run_dir, timeout=PATIENCE_S, resend=0.5)
        self.engines = [Member(run_dir, f"engine-{i}", seed + i) for i in range(engines)]

    def stats(self) -> Stats | None:
        """The kvstore's counters, None while it does not answer."""
        try:
            return self.reader.stats()
        except QuireError:
            return None

    def session(self, pid: int) -> SessionInfo | None:
        """The session of a process."""
        stats = self.stats()
        return next((s for s in stats.sessions if s.pid == pid), None) if stats else None

    def serving(self, boot_not: bytes = b"") -> bool:
        """Whether each engine has a ready session (of another boot than ``boot_not``) and holds blocks."""
        stats = self.stats()
        if stats is None or stats.boot == boot_not:
            return False
        working = {s.pid for s in stats.sessions if s.state == "ready" and s.progress > 0}
        return all(engine.pid in working for engine in self.engines)

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """As the function; fails at once if a process ended by itself. Raises ChaosError that says what is missing."""

        def looked() -> Any:
            value = condition()
            if not value:
                self.check()
            return value

        try:
            return wait_for(looked, what, PATIENCE_S)
        except AssertionError as error:
            raise ChaosError(f"{error}; {self._missing()}") from None

    def _missing(self) -> str:
        """What the kvstore says of each engine; those that do not work print their stacks on stderr."""
        stats = self.stats()
        if stats is None:
            return f"the kvstore (status {self.kvstore.process.poll()}) does not answer"
        sessions = {s.pid: (s.state, s.progress) for s in stats.sessions}
        for engine in self.engines:
            if sessions.get(engine.pid, ("", 0))[1] == 0 and engine.process.poll() is None:
                engine.send(signal.SIGUSR1)
        time.sleep(1.0)
        return ", ".join(f"{e.name}: {sessions.get(e.pid)}, status {e.process.poll()}" for e in self.engines)

    def check(self) -> None:
        """No process ended by itself, nothing foreign was read, no exception in the kvstore."""
        if self.kvstore.process.poll() is not None:
            raise ChaosError(f"the kvstore ended with {self.kvstore.process.returncode}: see {self.kvstore.log}")
        for engine in self.engines:
            if engine.foreign or engine.process.poll() is not None:
                raise ChaosError(f"{engine.name} ended with {engine.process.returncode}: {engine.foreign}")

    def close(self) -> None:
        """End everything, whatever state it is in."""
        self.reader.close()
        for engine in self.engines:
            engine.process.kill()
            engine.gone()
        self.kvstore.kill()

    def end_engines(self) -> None:
        """SIGTERM: each gives everything back and goes."""
        for engine in self.engines:
            engine.send(signal.SIGTERM)
        for engine in self.engines:
            status = engine.gone()
            if status != 0 or engine.foreign:
                raise ChaosError(f"{engine.name} ended with {status}: {engine.foreign}")
