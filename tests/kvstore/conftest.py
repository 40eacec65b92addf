"""Real kvstore processes and raw clients for a test, and their end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.children import holding_client
from tests.support.kvstore import Kvstore
from tests.support.raw_client import Client

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
    with ExitStack() as stack:
        yield lambda: stack.enter_context(holding_client(run_dir))
