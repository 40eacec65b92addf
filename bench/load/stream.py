"""One streamed chat completion over a raw connection, with the arrival time of everything in it.

The load generator shares the machine with the servers it measures, so while the clock runs it only notes what
arrived when. All parsing is done after the run, from the noted bytes.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, cast

HEAD_END = b"\r\n\r\n"
DONE = b"data: [DONE]"


class StreamError(Exception):
    """The server answered something that is no stream of a completion."""


@dataclass(slots=True)
class Answer:
    """One request as its sender saw it.

    Attributes:
        began, ended: seconds on the monotonic clock.
        tokens: arrival times of the events that brought text, one list a choice.
        texts: text of each choice.
        prompt, cached, output: tokens as the server counts them.
    """

    began: float
    ended: float
    tokens: dict[int, list[float]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    prompt: int = 0
    cached: int = 0
    output: int = 0

    @property
    def first(self) -> float:
        """Time of the first text of any choice."""
        return min(times[0] for times in self.tokens.values())


class Recorder(asyncio.Protocol):
    """Sends one request and notes (bytes so far, time) for everything that comes back."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.received = bytearray()
        self.marks: list[tuple[int, float]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note what came."""
        self.received += data
        self.marks.append((len(self.received), time.perf_counter()))
        if DONE in data and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the answer, or of the connection."""
        if not self.done.done():
            if exc is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(exc)


async def complete(host: str, port: int, key: str, body: dict[str, Any], timeout_s: float) -> Answer:
    """POST a streaming chat completion; raises StreamError, OSError or TimeoutError."""
    payload = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    began = time.perf_counter()
    transport, recorder = await asyncio.get_running_loop().create_connection(
        lambda: Recorder(head.encode() + payload), host, port
    )
    try:
        await asyncio.wait_for(recorder.done, timeout_s)
    finally:
        transport.abort()
    return read_answer(bytes(recorder.received), recorder.marks, began)


def read_answer(received: bytes, marks: list[tuple[int, float]], began: float) -> Answer:
    """Parse a recorded answer; raises StreamError."""
    head, found, _ = received.partition(HEAD_END)
    if not found or b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise StreamError(received[:500].decode(errors="replace"))
    answer = Answer(began, marks[-1][1])
    place = 0
    for end, event in _events(received, len(head) + len(HEAD_END), b"chunked" in head.lower()):
        while marks[place][0] < end:
            place += 1
        _take(answer, event, marks[place][1])
    if DONE not in received:
        raise StreamError(f"the stream ended before its end: {received[-300:].decode(errors='replace')}")
    if not answer.tokens:
        raise StreamError(f"no text in the stream: {received[-300:].decode(errors='replace')}")
    return answer


def _take(answer: Answer, event: dict[str, Any], at: float) -> None:
    if "error" in event:
        raise StreamError(str(event["error"]))
    for choice in event.get("choices", ()):
        text = (choice.get("delta") or {}).get("content") or ""
        if text:
            answer.tokens.setdefault(choice["index"], []).append(at)
            answer.texts[choice["index"]] = answer.texts.get(choice["index"], "") + text
    usage = event.get("usage")
    if usage:
        answer.prompt, answer.output = usage["prompt_tokens"], usage.get("completion_tokens", 0)
        answer.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def _events(received: bytes, start: int, chunked: bool) -> list[tuple[int, dict[str, Any]]]:
    """Server-sent events with the place in ``received`` where each was complete."""
    pieces = _chunks(received, start) if chunked else [(len(received), received[start:])]
    found: list[tuple[int, dict[str, Any]]] = []
    rest = b""
    for end, piece in pieces:
        *whole, rest = (rest + piece.replace(b"\r\n", b"\n")).split(b"\n\n")
        for event in whole:
            data = event.strip().removeprefix(b"data:").strip()
            if data and data != b"[DONE]" and data[:1] == b"{":
                found.append((end, json.loads(data)))
    return found


def _chunks(received: bytes, start: int) -> list[tuple[int, bytes]]:
    """The pieces of a chunked body, each with its end in ``received``."""
    pieces: list[tuple[int, bytes]] = []
    while True:
        line = received.find(b"\r\n", start)
        if line < 0:
            return pieces
        size = int(received[start:line].split(b";")[0] or b"0", 16)
        if size == 0:
            return pieces
        end = line + 2 + size
        pieces.append((min(end, len(received)), received[line + 2 : end]))
        start = end + 2
