"""Sides: programs that measure one system and speak JSON lines, so that two can be measured in turn.

A side reads one request a line on stdin and writes one answer a line on stdout; what the system itself prints goes
to stderr. It stays alive between requests: caches, imports and pools are warm when a pair is measured.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".peers"


class SideError(Exception):
    """A side could not be started or failed; the message says how."""


class OutOfTime(SideError):
    """A side did not end within its limit, in seconds."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"did not end within {limit_s:g} s")
        self.limit_s = limit_s


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment; raises SideError where there is none."""
    python = PEERS / name / "bin" / "python"
    if not python.exists():
        raise SideError(f"{python} is not there: make the peers' environments with bench/peers.sh (make peers)")
    return python


class Side:
    """One such program, as a context manager; it runs in ``folder``."""

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str] | None = None, folder: Path = ROOT
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )

    def send(self, **request: Any) -> None:
        """Ask for something without waiting for it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideError(f"{self.name} ended") from None

    def answer(self, limit_s: float | None = None) -> dict[str, Any]:
        """The next answer. Raises SideError if the program ended or reported an error, OutOfTime (and ends it) if none
        came within ``limit_s``."""
        assert self._process.stdout is not None
        if limit_s is not None and not select.select([self._process.stdout], [], [], limit_s)[0]:
            self._process.kill()
            raise OutOfTime(limit_s)
        line = self._process.stdout.readline()
        if not line:
            raise SideError(f"{self.name} ended with exit code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise SideError(f"{self.name}: {found['error']}")
        return found

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        return self.ask_within(None, **request)

    def ask_within(self, limit_s: float | None, **request: Any) -> dict[str, Any]:
        """The same, no longer than ``limit_s``; raises OutOfTime."""
        self.send(**request)
        return self.answer(limit_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
