"""The application of a replica: an entrance with one node, which is the replica's own stack.

What a client of Serve sends and reads passes as through ``quire entrance``, streams a piece at a time; Serve has no
part in it but the request id, which its proxies make where the client has none and say in the answer themselves.

A gateway that is being started again is waited for: Serve gives the next request to whichever replica has the least
open, and one that turned them away at once would get all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

from starlette.types import Message, Receive, Scope, Send

from quire_services.cluster.entrance.app import EntranceApp
from quire_services.cluster.entrance.members import EntranceNode, Members, node_client
from quire_services.cluster.entrance.routers.round_robin import RoundRobin
from quire_services.cluster.node_stack import StackReport

FOLLOW_S = 1.0
HOLD_S, HOLD_LOOK_S = 10.0, 0.1
ID_HEADER = b"x-request-id"


class ReplicaApp:
    """An ASGI application, alive between its lifespan's startup and shutdown.

    Args:
        name: the replica's, as logs have it.
        report: how the stack is now, and where its gateway; may take a second.
    """

    def __init__(self, name: str, report: Callable[[], StackReport]) -> None:
        self._name, self._report = name, report
        self._client = node_client()
        self._members, self._router = Members(self._client), RoundRobin()
        self._app = EntranceApp(self._members, self._router, self._client)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or live."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._hold()
            await self._app(_below_its_root(scope), receive, _with_one_id(scope, send))
        else:
            await send({"type": "websocket.close"})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # startup
        await self._find()
        beside = [asyncio.ensure_future(self._follow()), asyncio.ensure_future(self._members.watch())]
        await send({"type": "lifespan.startup.complete"})
        await receive()  # shutdown
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await self._client.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_S)
            with suppress(OSError):
                await self._find()

    async def _find(self) -> None:
        """Know where the gateway is: another life of it may have another port."""
        url = (await asyncio.to_thread(self._report)).url
        if url and self._members.declare([EntranceNode(self._name, url)]):
            await self._router.declare(self._members.serving())

    async def _hold(self) -> None:
        until = time.monotonic() + HOLD_S
        while not any(member.takes for member in self._members) and time.monotonic() < until:
            await asyncio.sleep(HOLD_LOOK_S)


def _below_its_root(scope: Scope) -> Scope:
    """The request as if the application's route were ``/``."""
    root: str = scope.get("root_path", "")
    if not root or not scope["path"].startswith(root):
        return scope
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    inner = {
        "path": scope["path"].removeprefix(root) or "/",
        "raw_path": raw.removeprefix(quote(root).encode()) or b"/",
    }
    return {**scope, **inner, "root_path": ""}


def _with_one_id(scope: Scope, send: Send) -> Send:
    """Leaves out the id that Serve's proxy adds to the answer: the one that it has given the request."""
    said = {(ID_HEADER, value) for name, value in scope["headers"] if name == ID_HEADER}

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [row for row in message["headers"] if tuple(row) not in said]}
        await send(message)

    return answer
