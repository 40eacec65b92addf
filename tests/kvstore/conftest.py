"""Real kvstore processes and raw clients for a test, and their end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.kvstore import Kvstore
from tests.support.raw_client import Client
from tests.support.repository import ROOT
from tests.support.waits import DEADLINE_S

Start = Callable[..., Kvstore]


@pytest.fixture
def start(run_dir: Path) -> Iterator[Start]:
    """Starts kvstores in the run directory; all are gone after the test, with nothing left in /dev/shm."""
    started: list[Kvstore] = []

    def one(*flags: str, blocks: int = 64, wait: bool = True) -> Kvstore:
        started.append(Kvstore(run_dir, *flags, blocks=blocks))
        return started[-1].start(wait=wait)

    yield one
    for kvstore in started:
        if kvstore.process.poll() is None:
            kvstore.stop()


@pytest.fixture
def connect(run_dir: Path) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def one() -> Client:
        clients.append(Client(run_dir))
        return clients[-1]

    yield one
    for client in clients:
        client.close()


@pytest.fixture
def holder(run_dir: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts client processes that hold ten blocks; returns once they do."""
    started: list[subprocess.Popen[str]] = []

    def one() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.hold_blocks", str(run_dir)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "holding\n"
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.wait(DEADLINE_S)
        assert process.stdout is not None
        process.stdout.close()
