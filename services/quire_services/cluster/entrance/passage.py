"""Passage: one request to one node and its answer back, byte for byte but for what belongs to a connection.

What was sent decides what can still be done when the node is gone. Nothing of a whole answer is sent before all of it
is there, and of a stream nothing before its first event: until then another node can be asked (``NodeGone`` with
``begun`` false). Comments that keep a stream alive count for nothing. Behind that an answer that another node would
give need not go on where this one stopped; the caller ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
from starlette.types import Message

from .members import Member

Headers = Sequence[tuple[bytes, bytes]]
CONNECT_S, NODE_WRITE_S = 3.0, 30.0
# RFC 9110, 7.6.1: between two hops only.
HOP = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"]
)
EVENTS = b"text/event-stream"


class NodeGone(Exception):
    """A node did not answer, or not to the end. ``begun``: whether the client has something of its answer."""

    def __init__(self, why: str, begun: bool) -> None:
        super().__init__(why)
        self.begun = begun


class NodeRefused(Exception):
    """A node cannot serve anybody now (503), another one may. ``messages``: its answer, if it must be the client's."""

    def __init__(self, messages: list[Message]) -> None:
        super().__init__("the node answers 503")
        self.messages = messages


class Passage:
    """One request on its way.

    Args:
        client: has connections to nodes.
        send: to the client.
        begins: called once, when the first byte that means something has come.
    """

    def __init__(
        self, client: httpx.AsyncClient, send: Callable[[Message], Awaitable[None]], begins: Callable[[], None]
    ) -> None:
        self._client, self.send, self._begins = client, send, begins
        self.started = self.begun = self.over = False  # the head was sent; an event, or all, was; nothing is left
        self.events = False
        self.status = 0

    async def through(self, member: Member, method: str, target: str, headers: Headers, body: bytes) -> None:
        """Ask this node, and send what it answers. Raises NodeGone and NodeRefused."""
        timeout = httpx.Timeout(None, connect=CONNECT_S, write=NODE_WRITE_S)
        request = httpx.Request(
            method,
            member.node.url + target,
            headers=[(name, value) for name, value in headers if name not in HOP and name != b"content-length"],
            content=body,
            extensions={"timeout": timeout.as_dict()},
        )
        try:
            async with asyncio.timeout(None) as limit:
                with member.busy(), member.losing(limit):
                    answer = await self._client.send(request, stream=True)
                    try:
                        await self._back(answer)
                    finally:
                        await answer.aclose()
        except TimeoutError:
            raise NodeGone("it was silent", self.begun) from None
        except httpx.TransportError as error:
            raise NodeGone(f"{type(error).__name__}: {error}", self.begun) from error

    async def _back(self, answer: httpx.Response) -> None:
        raw = [(name.lower(), value) for name, value in answer.headers.raw]
        head: Message = {
            "type": "http.response.start",
            "status": answer.status_code,
            "headers": [
                (name, value) for name, value in raw if name not in HOP and name != b"date"
            ],  # the server says it
        }
        if dict(raw).get(b"content-type", b"").startswith(EVENTS):
            self.events = True
            await self._stream(head, answer)
            return
        body = b"".join([piece async for piece in answer.aiter_raw()])
        whole: list[Message] = [head, {"type": "http.response.body", "body": body}]
        if answer.status_code == 503 and not self.started:
            raise NodeRefused(whole)
        if self.started:  # a stream whose first node was gone before its first event, and it is refused elsewhere
            raise NodeGone(f"another node answers {answer.status_code}", False)
        self.started = self.begun = True
        self.status = answer.status_code
        self._begins()
        self.over = True
        for message in whole:
            await self.send(message)

    async def _stream(self, head: Message, answer: httpx.Response) -> None:
        async for piece in answer.aiter_raw():
            if not self.started:
                self.started, self.status = True, answer.status_code
                await self.send(head)
            if not self.begun and not _is_comment(piece):
                self.begun = True
                self._begins()
            await self.send(_piece(piece))
        if not self.started:  # an empty stream
            self.started, self.status = True, answer.status_code
            await self.send(head)
        self.over = True
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def end_with(self, event: bytes) -> None:
        """End a stream that has a head with this event."""
        await self.send(_piece(event))
        self.over = True
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def _piece(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _is_comment(piece: bytes) -> bool:
    """Whether a piece of a stream only keeps it alive."""
    return all(line.startswith(b":") or not line for line in piece.split(b"\n"))
