"""HTTP protocol: uvicorn's httptools connection, with bounds, timeouts and the rules that it leaves out.

What is added to the library, each because some client or some attack needs it:

- a head is at most ``MAX_HEAD_BYTES`` long, of ``MAX_HEADERS`` headers, its target at most
  ``MAX_TARGET_BYTES``, and comes within ``HEAD_S`` seconds (431, 414, 408);
- a body's next bytes come within ``BODY_S`` seconds (408), what is sent is read within the write timeout;
- a message whose length can be read in two ways is refused (RFC 9112, 6.3), as a proxy may read it the other way: the
  parser does it, but for codings that it does not know;
- an upgrade to another protocol is ignored, as RFC 9110 (7.8) allows, and the request's body is read: Java's client
  offers h2c with every first request;
- a client of HTTP/1.0 gets no chunks: its answer ends with the connection.

Errors of this level have the OpenAI shape too.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from .connections import Connections
from .errors import ApiError

MAX_HEAD_BYTES = 65_536
MAX_TARGET_BYTES = 8192  # RFC 9112, 3: at least 8,000
MAX_HEADERS = 100
MAX_PIPELINED = 16
MAX_UNREAD_BYTES = 64 << 20  # of a body that was answered before its end; a polite client is read to the end
HEAD_S = 10.0
BODY_S = 30.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all connections of a server share. ``write_s``: seconds without progress until a reader is cut off."""

    connections: Connections
    write_s: float


class Refusal(Exception):
    """A message that is not served; the connection ends with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, bounds: Bounds, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bounds = bounds
        self._refusal: Refusal | None = None
        self._head_bytes = 0  # of a head that is not complete; 0 between messages
        self._in_head = True
        self._replayed = False
        self._unread = 0
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._buffered = 0

    # --- life of the connection ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, and wait for a head."""
        super().connection_made(transport)
        if self._bounds.connections.opened(self):
            self._wait(HEAD_S)
        else:
            self._refuse(Refusal(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._bounds.connections.closed(self)
        self._wait(None)
        self._unwatch()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.pipeline and self._in_head:
            self._bounds.connections.idle(self)

    def close_idle(self) -> None:
        """Make room for others."""
        self.transport.abort()

    # --- what comes in -----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse. A head is fed no further than its bound, so that nothing longer is ever kept."""
        self._unset_keepalive_if_required()
        while data and not self.transport.is_closing():
            piece = data
            if self._in_head:
                if not self._head_bytes:
                    self._wait(HEAD_S)
                piece = data[: MAX_HEAD_BYTES + 1 - self._head_bytes]
                self._head_bytes += len(piece)
            else:
                self._wait(BODY_S)
            data = data[len(piece) :]
            self._feed(piece)
            if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(Refusal(431, f"the request's head is longer than {MAX_HEAD_BYTES} bytes"))

    def _feed(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or Refusal(400, f"not a valid HTTP request: {error}"))

    def _ignore_upgrade(self, rest: bytes) -> None:
        """The parser would leave the connection to the other protocol: another goes on behind the head it has read."""
        body = [b": ".join(header) for header in self.headers if header[0] in (b"content-length", b"transfer-encoding")]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as the library sets its own
        if not self._in_head:  # there is a body
            self._replayed = True
            self.parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *body, b"\r\n"]))
            self._replayed = False
        if rest:
            self._feed(rest)

    def on_message_begin(self) -> None:
        """Begin a request."""
        if not self._replayed:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        if self._replayed:
            return
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            self._stop(414, f"the request's target is longer than {MAX_TARGET_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if self._replayed:
            return
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._stop(431, f"more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        """Start the request, if its head can be read in one way only."""
        if self._replayed:
            return
        self._check_head()
        self._in_head, self._head_bytes, self._unread = False, 0, 0
        self._bounds.connections.busy(self)
        self._wait(BODY_S)
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            _end_with_the_connection(self.cycle)

    def _check_head(self) -> None:
        names = [name for name, _ in self.headers]
        coding = [value.lower().strip() for name, value in self.headers if name == b"transfer-encoding"]
        if coding and (coding != [b"chunked"] or self.parser.get_http_version() != "1.1"):
            self._stop(400, "the only transfer-encoding is chunked, in HTTP/1.1")
        if names.count(b"host") != 1 and (b"host" in names or self.parser.get_http_version() == "1.1"):
            self._stop(400, "a request of HTTP/1.1 has one host header")
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(400, "too many requests at once on one connection")

    def _stop(self, status: int, message: str) -> None:
        self._refusal = Refusal(status, message)
        raise self._refusal  # the parser ends with it

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, or drop it if it was answered already."""
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > MAX_UNREAD_BYTES:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, but not where a parser sees another protocol begin instead of the body."""
        if self.parser.should_upgrade() and self._has_body():
            return
        self._in_head = True
        self._wait(None)
        super().on_message_complete()
        if self.cycle.response_complete and not self.pipeline:
            self._bounds.connections.idle(self)

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self.headers
        )

    def _should_upgrade(self) -> bool:
        return False

    # --- time --------------------------------------------------------------------------------------------------

    def _wait(self, seconds: float | None) -> None:
        """Let what is being read take so long, from now on; None: nothing is."""
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None if seconds is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self.flow.read_paused:  # by us
            self._wait(BODY_S)
        elif self._in_head and not self._head_bytes:
            self.transport.close()
        else:
            self._refuse(Refusal(408, "the request took too long to come"))

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._unwatch()
        super().resume_writing()

    def _watch(self) -> None:
        self._buffered = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self._bounds.write_s, self._check_progress)

    def _check_progress(self) -> None:
        if self.transport.get_write_buffer_size() < self._buffered:
            self._watch()
        else:
            self.transport.abort()

    def _unwatch(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    # --- refusal -----------------------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, if no answer is under way, and close."""
        self._wait(None)
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            error = ApiError(refusal.status, refusal.message, type="invalid_request_error", code="bad_http")
            content = orjson.dumps(error.body())
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[refusal.status] + head + content)
        self.transport.close()


def _end_with_the_connection(cycle: RequestResponseCycle) -> None:
    """Have an answer without a length end with the connection: a client of HTTP/1.0 knows no chunks."""
    send = cycle.send

    async def unchunked(message: Any) -> None:
        if message["type"] == "http.response.start":
            named = {name.lower() for name, _ in message.get("headers", [])}
            if b"content-length" not in named:
                cycle.chunked_encoding = False
        elif not cycle.expected_content_length:
            cycle.expected_content_length = len(message.get("body", b""))  # each piece is all that is expected yet
        await send(message)

    cycle.send = unchunked  # type: ignore[method-assign]
