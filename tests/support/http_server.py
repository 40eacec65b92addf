"""A server of ours around any application, in a thread, and raw sockets to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from quire_services.gateway.http.connections import Connections
from quire_services.gateway.http.protocol import Bounds
from quire_services.gateway.http.server import HttpServer, bind

JSON = b"host: localhost\r\ncontent-type: application/json\r\n"


@contextlib.contextmanager
def served(app: ASGIApp, *, most: int = 100, write_s: float = 60.0) -> Iterator[int]:
    """Serve an application; the port."""
    listening = bind("127.0.0.1", 0)
    listening.listen()
    server = HttpServer(app, 0.0, Bounds(Connections(most), write_s))
    thread = threading.Thread(target=lambda: uvloop.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the method, the path and the body; to ``/stream`` in pieces, without a length."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = b"%b %b %b" % (scope["method"].encode(), scope["path"].encode(), body)
    headers = [] if scope["path"] == "/stream" else [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for at in range(0, len(answer), 4):
        await send({"type": "http.response.body", "body": answer[at : at + 4], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def flood(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends without end, until the client is gone."""
    gone = asyncio.ensure_future(_gone(receive))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not gone.done():
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await asyncio.sleep(0)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class RawConnection:
    """A connection that says exactly what a test says."""

    def __init__(self, port: int, *pieces: bytes, buffer: int = 0) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._behind = b""  # what came behind the last answer
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))
        for piece in pieces:
            self.say(piece)

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: Any) -> None:
        self.socket.close()

    def say(self, data: bytes) -> None:
        """Send; what the other side does not take any more is no error."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of an answer with a length; an interim one is passed over."""
        head = self._until(b"\r\n\r\n").lower()
        if head.startswith(b"http/1.1 100"):
            return self.answer()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(self._behind) < length:
            self._behind += self._more()
        body, self._behind = self._behind[:length], self._behind[length:]
        return int(head.split()[1]), head, body

    def _until(self, end: bytes) -> bytes:
        while end not in self._behind:
            self._behind += self._more()
        before, _, self._behind = self._behind.partition(end)
        return before

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := self.socket.recv(65536):
                data += piece
        return data

    def _more(self) -> bytes:
        piece = self.socket.recv(65536)
        assert piece, "the connection ended inside an answer"
        return piece


def post(path: bytes, body: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    """A POST with a length."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/%b\r\n%b%bcontent-length: %d\r\n\r\n%b" % (path, version, JSON, lines, len(body), body)
