"""vllm-router (``--policy kv_aware``): it carries requests, so it is given small ones whose way shows its choice.

For each node there is a port here, and that is the address by which the router knows it. What it asks about a node, the
node answers through it: health, events, server. A prompt goes to the router as a completion of its tokens; on whichever
port it comes out, that node was chosen, and there it stays open until the client's own request is over, so that the
router counts what is under way where it is. It answers the router's question for the prompt's tokens, too, as they are
known. The client's bytes never pass the router: it knows neither all of the API nor its keys, and would write its own
errors (``docs/adr/0023-one-entrance.md``).

A changed list of nodes is a new router, which reads all events again; while it does, ``choose`` says that it is away.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Sequence
from typing import Any

import httpx
import orjson
import structlog
from starlette.types import Receive, Scope, Send

from quire_services.cluster.entrance.members import EntranceNode
from quire_services.gateway.http.connections import Connections
from quire_services.gateway.http.protocol import Bounds
from quire_services.gateway.http.server import HttpServer, bind, listen
from quire_services.process.port_check import free_local_port

from .router import RouterAway, RouterSettings
from .router_process import RouterProcess

CHOICE_S = 2.0
PORT_CONNECTIONS = 8192
ANSWERED_BY_NODE = frozenset({"/health", "/kv_event_sources", "/get_server_info", "/v1/models", "/version"})
RENDER, COMPLETE = "/v1/completions/render", "/v1/completions"
log = structlog.get_logger()


class _Asked:
    """A prompt that the router was asked about, until the client's request is over."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self.chosen: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        self.call: asyncio.Task[Any] | None = None


class _Port:
    """Where the router finds one node."""

    def __init__(self, node: EntranceNode, owner: VllmRouter) -> None:
        self.node, self._owner = node, owner
        self._socket: socket.socket = bind("127.0.0.1", 0)
        listen(self._socket)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = HttpServer(self, 0.0, Bounds(Connections(PORT_CONNECTIONS), 60.0))
        self._task = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))

    async def close(self) -> None:
        """Listen no more."""
        self._server.should_exit = self._server.force_exit = True
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the router."""
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        status, said = await self._owner.answer(self.node, scope["path"], bytes(body))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": said})


class VllmRouter:
    """The router, its ports, and what it was asked."""

    needs_tokens = True

    def __init__(self, settings: RouterSettings, policy: str = "kv_aware") -> None:
        self._settings, self._policy = settings, policy
        self._ports: list[_Port] = []
        self._asked: dict[str, _Asked] = {}
        self._process: RouterProcess | None = None
        self._url = ""
        self._changing = asyncio.Lock()

    async def start(self, nodes: Sequence[EntranceNode]) -> None:
        """Begin with these nodes."""
        self._ports = [_Port(node, self) for node in nodes]
        port = free_local_port()
        self._url = f"http://127.0.0.1:{port}"
        command = [
            "--policy", self._policy, "--worker-urls", *(port.url for port in self._ports), "--host", "127.0.0.1",
            "--port", str(port), "--prometheus-port", str(free_local_port()), "--worker-startup-check-interval", "1",
            "--health-check-interval-secs", "1", "--health-failure-threshold", "1", "--health-success-threshold", "1",
            "--disable-retries", "--log-level", "warning",
        ]  # fmt: skip
        self._process = RouterProcess(self._settings, command, f"{self._url}/health", _nothing)
        if nodes:  # it does not start without any
            await self._process.start()

    async def declare(self, nodes: Sequence[EntranceNode]) -> None:
        """A new router for the new list."""
        async with self._changing:
            await self.close()
            await self.start(nodes)

    async def choose(self, model: str, tokens: Sequence[int]) -> tuple[str, str]:
        """On which port a completion of these tokens comes out."""
        if self._process is None or not self._process.answers:
            raise RouterAway("it is not ready")
        ticket, asked = secrets.token_hex(8), _Asked(tokens)
        self._asked[ticket] = asked
        body = {"model": model, "prompt": list(tokens), "max_tokens": 1, "user": ticket}
        asked.call = asyncio.ensure_future(
            self._settings.client.post(
                f"{self._url}{COMPLETE}", content=orjson.dumps(body), headers=_JSON, timeout=None
            )
        )
        await asyncio.wait((asked.chosen, asked.call), timeout=CHOICE_S, return_when=asyncio.FIRST_COMPLETED)
        if asked.chosen.done():
            return asked.chosen.result(), ticket
        reason = "it does not choose in time"
        if asked.call.done():
            failed = asked.call.exception()
            reason = str(failed or asked.call.result().text[:200])
        await self.done(ticket)
        raise RouterAway(reason)

    async def done(self, ticket: str) -> None:
        """Let the router have its answer."""
        asked = self._asked.pop(ticket, None)
        if asked is None:
            return
        asked.over.set()
        if asked.call is not None and not asked.chosen.done():
            asked.call.cancel()
        if asked.call is not None:
            asked.call.add_done_callback(lambda call: call.cancelled() or call.exception())  # nobody else reads it

    async def close(self) -> None:
        """End it; what it was asked is over for it."""
        for ticket in list(self._asked):
            await self.done(ticket)
        if self._process is not None:
            await self._process.close()
        await asyncio.gather(*(port.close() for port in self._ports))
        self._ports = []

    async def answer(self, node: EntranceNode, path: str, body: bytes) -> tuple[int, bytes]:
        """What a node's port says."""
        if path in ANSWERED_BY_NODE:
            return await self._passed(node, path)
        if path not in (RENDER, COMPLETE):
            return 404, b"{}"
        try:
            asked = self._asked[orjson.loads(body)["user"]]
        except (KeyError, TypeError, orjson.JSONDecodeError):
            return 404, b"{}"
        if path == RENDER:
            return 200, orjson.dumps([{"token_ids": list(asked.tokens)}])
        if not asked.chosen.done():
            asked.chosen.set_result(node.name)
        await asked.over.wait()
        return 200, b'{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}'

    async def _passed(self, node: EntranceNode, path: str) -> tuple[int, bytes]:
        try:
            answer = await self._settings.client.get(node.url + path, timeout=CHOICE_S)
            return answer.status_code, answer.content
        except httpx.HTTPError:
            return 503, b"{}"


_JSON = {"content-type": "application/json"}


async def _nothing() -> None:
    """It was told all on its command line."""
