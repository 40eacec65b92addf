"""An entrance in a thread, and nodes that are written out: what each answers is what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvloop
from starlette.types import Message, Receive, Scope, Send

from quire_services.cluster.entrance import Entrance, EntranceNode
from tests.support.waits import wait_for

Answer = Callable[["Asked"], Awaitable[None]]
EVENT_STREAM = [(b"content-type", b"text/event-stream")]


class Asked:
    """A request at a written node, and how it is answered."""

    def __init__(self, scope: Scope, body: bytes, send: Send) -> None:
        self.path, self.method, self.body, self._send = scope["path"], scope["method"], body, send
        self.query = scope["query_string"]
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}

    async def whole(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """A whole answer."""
        length = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await self._send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
        await self._send({"type": "http.response.body", "body": body})

    async def head(self, headers: Sequence[tuple[bytes, bytes]] = EVENT_STREAM) -> None:
        """The head of a longer one."""
        await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})

    async def piece(self, body: bytes, more: bool = True) -> None:
        """A piece of it; without ``more`` the last one."""
        message: Message = {"type": "http.response.body", "body": body, "more_body": more}
        await self._send(message)

    def die(self) -> None:
        """Let the connection end in the middle, as a killed process does."""
        raise ConnectionAbortedError


class WrittenNode:
    """An application that answers ``/health`` by itself, and anything else as it is told.

    Attributes:
        answer: what it does with a request.
        health: status of its health; 0: it does not answer.
        asked: what it was asked, in order.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer, self.health = answer, 200
        self.asked: list[Asked] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        asked = Asked(scope, body, send)
        if asked.path == "/health":
            await asked.whole(self.health, b"{}")
            return
        self.asked.append(asked)
        with contextlib.suppress(ConnectionAbortedError):
            await self.answer(asked)

    def served(self, path: str) -> int:
        """How many requests of a path it had."""
        return sum(asked.path == path for asked in self.asked)


class RunningEntrance:
    """One, in a thread of its own, with round robin, and a client of it."""

    def __init__(self, entrance: Entrance, loop: asyncio.AbstractEventLoop) -> None:
        self._entrance, self._loop = entrance, loop
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{entrance.port}", timeout=30, trust_env=False)

    def declare(self, *nodes: EntranceNode) -> None:
        """Take over a new list."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (self._entrance.declare(nodes), done.set()))
        assert done.wait(10)

    def states(self) -> dict[str, Any]:
        """Its nodes, as its health says."""
        found: dict[str, Any] = self.http.get("/health").json()["nodes"]
        return {name: node["state"] for name, node in found.items()}

    def stop(self) -> None:
        """Take nothing new."""
        self._loop.call_soon_threadsafe(self._entrance.stop)


@contextlib.contextmanager
def running_entrance(tmp: Path, *nodes: EntranceNode) -> Iterator[RunningEntrance]:
    """Until the end of the block."""
    started: list[RunningEntrance] = []

    async def run() -> None:
        entrance = Entrance("127.0.0.1", 0, nodes, router="round-robin", log_file=tmp / "router.log", drain_s=5)
        started.append(RunningEntrance(entrance, asyncio.get_running_loop()))
        await entrance.run()

    thread = threading.Thread(target=lambda: uvloop.run(run()))
    thread.start()
    try:
        running = wait_for(lambda: started and started[0], "the entrance is made")
        wait_for(lambda: running._entrance.listens, "the entrance listens")
        yield running
    finally:
        if started:
            started[0].http.close()
            started[0].stop()
        thread.join(20)
