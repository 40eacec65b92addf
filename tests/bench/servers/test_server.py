"""A server under test, put to rest while others are measured."""

from __future__ import annotations

import sys
import time

import pytest

from bench.servers.server import HOST, Server, free_port, status
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
SOON_S = 10.0


class Files(Server):
    """Serves a directory."""

    name = "files"

    def __init__(self) -> None:
        self.port = free_port()
        super().__init__([sys.executable, "-m", "http.server", str(self.port), "--bind", HOST], {}, {})

    def ready(self) -> bool:
        return status(self.port, "/") == 200

    def state(self) -> str:
        """The kernel's letter for what its process does: T while it is stopped."""
        assert self._process is not None
        with open(f"/proc/{self._process.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]


def test_a_resting_server_does_nothing_until_it_is_woken() -> None:
    """At rest it uses no processor and keeps what it holds; woken, it answers again."""
    with Files() as server:
        server.rest()
        wait_for(lambda: server.state() == "T", "the server is stopped", SOON_S)
        server.wake()
        assert server.ready()
        assert server.state() != "T"


def test_a_resting_server_stops_when_told() -> None:
    """The end of a run does not wait for one that is at rest."""
    with Files() as server:
        server.rest()
        began = time.monotonic()
        server.stop()
    assert time.monotonic() - began < SOON_S
