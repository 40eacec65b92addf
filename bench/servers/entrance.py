"""``quire entrance`` under test, and the stacks behind it, whose events tell a router all that it may want to know."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.load.generator import Endpoint
from bench.processes.side import SideError

from .quire import Quire
from .server import HOST, Server, free_port, status

LOGGED_S = 10.0  # from an answer's end to its line in the log, on a machine that is busy
CHATS = "/v1/chat/completions"


class EventNode(Quire):
    """A stack whose events say all tokens and name no tenant, which is what every router can read."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        events = f"--events=tcp://{HOST}:{_two_ports()}"
        self._command += [events, "--events-network=private", "--events-tokens=all", "--events-tenants=unnamed"]

    @property
    def url(self) -> str:
        """Of its gateway, without a path."""
        return f"http://{HOST}:{self._port}"


@contextmanager
def running_nodes(count: int, *arguments: Any) -> Iterator[list[EventNode]]:
    """So many, started beside each other, each empty. ``arguments``: of ``EventNode``."""
    nodes = [EventNode(*arguments) for _ in range(count)]
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.stop)
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(EventNode.__enter__, nodes))
        yield nodes


@dataclass(frozen=True, slots=True)
class ChatRoute:
    """Where a chat went. ``chosen``: by the router; else to the node with the least open."""

    node: str
    chosen: bool


class EntranceServer(Server):
    """One, with a router and its program, in front of nodes that serve."""

    name = "entrance"

    def __init__(self, router: str, program: Path | None, nodes: Sequence[EventNode]) -> None:
        self._port, self._target = free_port(), nodes[0].target(isolated=True)
        command = [sys.executable, "-P", "-m", "quire_services.cli", "entrance", f"--router={router}"]
        command += [f"--port={self._port}", *(f"--node={node.url}" for node in nodes)]
        super().__init__(command, {}, {"router": router})
        self._command.append(f"--router-log={self.directory / 'router.log'}")
        if program is not None:
            self._command.append(f"--router-program={program}")

    def ready(self) -> bool:
        """It listens once its router answers."""
        return status(self._port, "/health") == 200

    def target(self, isolated: bool) -> Endpoint:  # noqa: ARG002 - nodes always keep tenants apart
        """The same as a node's, but for the port."""
        return replace(self._target, port=self._port)

    def routes(self, count: int) -> list[ChatRoute]:
        """Of all chats so far, which are so many, in order. Raises SideError where the log does not say it."""
        deadline = time.monotonic() + LOGGED_S
        while len(found := chat_routes((self.directory / "log").read_text())) < count:
            if time.monotonic() > deadline:
                raise SideError(f"the entrance has logged {len(found)} of {count} chats")
            time.sleep(0.05)
        return found


def chat_routes(log: str) -> list[ChatRoute]:
    """What an entrance's log says of chats that were answered."""
    found = []
    for line in log.splitlines():
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("event") == "request" and said["path"] == CHATS and said["nodes"]:
            found.append(ChatRoute(said["nodes"][-1], said["routed"]))
    return found


def _two_ports() -> int:
    """A port that is free with the next one: events, and their replay."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port + 1))
            except OSError:
                continue
            return port
