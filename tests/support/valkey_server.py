"""A Valkey or Redis server of a test's own, on a free port, without a file; a test without one is skipped.

``scripts/install-system-packages.sh`` brings it to Debian, so CI has it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port, listens
from tests.support.waits import wait_for

PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")


class StoreServer:
    """The server. It can be stopped and started again, and then knows nothing more."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port, self._program, self._folder = free_port(), program, folder
        self.url = f"valkey://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start it, empty."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([*command, "--dir", str(self._folder)], stdout=subprocess.DEVNULL)
        wait_for(lambda: listens(self.port), "the store listens", 30)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def store_server(folder: Path) -> Iterator[StoreServer]:
    """A running one."""
    if PROGRAM is None:
        pytest.skip("neither valkey-server nor redis-server is installed (scripts/install-system-packages.sh)")
    server = StoreServer(PROGRAM, folder)
    try:
        yield server
    finally:
        server.stop()
