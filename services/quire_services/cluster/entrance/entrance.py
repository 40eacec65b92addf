"""Entrance: one address in front of a list of nodes that may change, and the router that says which of them.

``run`` serves until it is cancelled or ``stop`` is called; what is open then has ``drain_s``. ``declare`` takes a new
list at any time, from the same event loop: what is open goes on, at nodes that left the list, too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

import httpx
import structlog

from quire_services.gateway.http.connections import Connections
from quire_services.gateway.http.protocol import Bounds
from quire_services.gateway.http.server import HttpServer, bind, listen

from .app import EntranceApp
from .members import EntranceNode, Members, node_client
from .routers.dynamo_selection import DynamoSelection
from .routers.round_robin import RoundRobin
from .routers.router import Router, RouterSettings
from .routers.router_process import program_of
from .routers.vllm_router import VllmRouter

MOST_CONNECTIONS = 4096
WRITE_S = 60.0
# A router by its name in settings, and the program that it runs in.
PROGRAMS = {"vllm-router": "vllm-router", "dynamo": "python", "round-robin": ""}
DEFAULT_ROUTER = "vllm-router"
log = structlog.get_logger()


def make_router(name: str, program: str, log_file: Path, client: httpx.AsyncClient) -> Router:
    """A router by its name. Raises StartError where its program is not there."""
    if name == "round-robin":
        return RoundRobin()
    settings = RouterSettings(program_of(program, PROGRAMS[name]), log_file, client)
    return VllmRouter(settings) if name == "vllm-router" else DynamoSelection(settings)


class Entrance:
    """One.

    Args:
        host, port: where it listens; port 0: one that is free.
        nodes: the first list.
        router: one of ``PROGRAMS``.
        program: the router's program, where it is not beside our Python or on the path; for dynamo its Python.
        log_file: what the router says goes there.

    Attributes:
        port: the one that it got.
        listens: whether clients can come.
    """

    def __init__(
        self,
        host: str,
        port: int,
        nodes: Sequence[EntranceNode],
        *,
        router: str = DEFAULT_ROUTER,
        program: str = "",
        log_file: Path,
        drain_s: float = 30.0,
    ) -> None:
        self._socket: socket.socket = bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._client = node_client()
        self._members = Members(self._client)
        self._members.declare(nodes)
        self._router = make_router(router, program, log_file, self._client)
        self._changed: asyncio.Task[None] | None = None
        self._again = self.listens = False
        app = EntranceApp(self._members, self._router, self._client)
        self._server = HttpServer(app, drain_s, Bounds(Connections(MOST_CONNECTIONS), WRITE_S))

    async def run(self) -> None:
        """Serve. Raises StartError and BindError."""
        watch = asyncio.ensure_future(self._members.watch())
        try:
            await self._router.start(self._members.serving())
            listen(self._socket)
            self.listens = True
            log.info("entrance", port=self.port, nodes=[node.url for node in self._members.serving()])
            await self._server.serve(sockets=[self._socket])
        finally:
            watch.cancel()
            await asyncio.gather(watch, *filter(None, [self._changed]), return_exceptions=True)
            await self._router.close()
            await self._client.aclose()
            self._socket.close()

    def stop(self) -> None:
        """Take no new connections, and end when what is open is over, or has had its time."""
        self._server.should_exit = True

    def declare(self, nodes: Sequence[EntranceNode]) -> None:
        """From now on there are these."""
        if not self._members.declare(nodes):
            return
        log.info("nodes", serving=[node.name for node in self._members.serving()])
        self._again = True
        if self._changed is None or self._changed.done():
            self._changed = asyncio.ensure_future(self._tell_router())

    async def _tell_router(self) -> None:
        while self._again:  # a list that came meanwhile is the one that counts
            self._again = False
            try:
                await self._router.declare(self._members.serving())
            except Exception as error:  # requests go on by load alone; the next list tries again
                log.error("router_away", reason=str(error))
