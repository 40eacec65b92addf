"""The tenant beside a hostile one: what it sees of the gateway, measured in a process of its own.

Three things go on all the time: a stream is read (the longest gap between two arrivals), ``/health`` is asked every
50 ms, and small requests are sent (time to the first token). How late a timer of this process came says how much of
all that is the machine's doing. Speaks JSON lines (`bench.processes`): ``begin`` starts a count, ``end`` answers with
it once each of the three has gone on again, so that a standstill is measured to its end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

HOST = "127.0.0.1"
HEALTH_EACH_S, REQUEST_EACH_S, LAG_EACH_S = 0.05, 0.25, 0.005
STREAM_TOKENS = 4000


@dataclass(slots=True)
class Waits:
    """Seconds, and counts.

    ``refused``: small requests by status other than 200; ``broken``: streams that were cut; ``stands``: what had not
    gone on when the count ended, so that its seconds are the least they can be.
    """

    gap_s: float = 0.0
    health_s: float = 0.0
    first_token_s: float = 0.0
    lag_s: float = 0.0
    events: int = 0
    requests: int = 0
    unhealthy: int = 0
    broken: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    stands: list[str] = field(default_factory=list)


class Victim:
    """The three loops and what they count."""

    def __init__(self, port: int, key: str, model: str) -> None:
        self._port, self._key, self._model = port, key, model
        self.seen = Waits()
        self.last = {"stream": 0.0, "health": 0.0, "request": 0.0}  # when each went on last

    @asynccontextmanager
    async def _open(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[asyncio.StreamReader]:
        payload = json.dumps({"model": self._model, **body}).encode() if body else b""
        reader, writer = await asyncio.open_connection(HOST, self._port)
        try:
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
                f"Authorization: Bearer {self._key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
            )
            writer.write(head.encode() + payload)
            yield reader
        finally:
            writer.close()

    async def stream(self) -> None:
        """Read one stream after the other."""
        body = {"prompt": "Once upon a time", "max_tokens": STREAM_TOKENS, "stream": True, "ignore_eos": True}
        while True:
            before = 0.0
            try:
                done = False
                async with self._open("POST", "/v1/completions", {**body, "temperature": 0}) as reader:
                    while data := await reader.read(65536):
                        now = time.perf_counter()
                        if b"data: {" in data:
                            self.seen.gap_s = max(self.seen.gap_s, now - before if before else 0.0)
                            self.seen.events += 1
                            before = self.last["stream"] = now
                        done = done or b"[DONE]" in data
                self.seen.broken += not done
            except OSError:
                self.seen.broken += 1
                done = False
            if not done:
                await asyncio.sleep(HEALTH_EACH_S)

    async def health(self) -> None:
        """Ask for the gateway's health."""
        while True:
            began = time.perf_counter()
            try:
                async with self._open("GET", "/health", None) as reader:
                    head = await reader.read(200)
                self.seen.unhealthy += b" 200 " not in head
            except OSError:
                self.seen.unhealthy += 1
            self.last["health"] = time.perf_counter()
            self.seen.health_s = max(self.seen.health_s, self.last["health"] - began)
            await asyncio.sleep(HEALTH_EACH_S)

    async def requests(self) -> None:
        """Send small requests, each with a prompt of its own."""
        number = 0
        while True:
            number += 1
            began = time.perf_counter()
            body = {"prompt": f"Question {number}: what is new?", "max_tokens": 4, "stream": True, "temperature": 0}
            try:
                text = b""
                async with self._open("POST", "/v1/completions", body) as reader:
                    while b"data: {" not in text and (data := await reader.read(65536)):
                        text += data
                status = text[9:12].decode(errors="replace") if b"data: {" in text else text[9:12].decode() or "cut"
                if b"data: {" not in text or status != "200":
                    self.refuse(status)
            except OSError:
                self.refuse("cut")
            self.last["request"] = time.perf_counter()
            self.seen.requests += 1
            self.seen.first_token_s = max(self.seen.first_token_s, self.last["request"] - began)
            await asyncio.sleep(REQUEST_EACH_S)

    def refuse(self, status: str) -> None:
        """Count a small request that was not answered."""
        self.seen.refused[status] = self.seen.refused.get(status, 0) + 1

    async def gone_on(self, within_s: float) -> None:
        """Until each of the three has gone on; what still stands then is counted as far as it has come."""
        told = time.perf_counter()
        while min(self.last.values()) < told and time.perf_counter() < told + within_s:
            await asyncio.sleep(LAG_EACH_S)
        stood = {name: time.perf_counter() - last for name, last in self.last.items() if last < told}
        self.seen.stands = list(stood)
        self.seen.gap_s = max(self.seen.gap_s, stood.get("stream", 0.0))
        self.seen.health_s = max(self.seen.health_s, stood.get("health", 0.0))
        self.seen.first_token_s = max(self.seen.first_token_s, stood.get("request", 0.0))

    async def lag(self) -> None:
        """How late this process is served by the machine."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(LAG_EACH_S)
            self.seen.lag_s = max(self.seen.lag_s, time.perf_counter() - began - LAG_EACH_S)


async def answer_requests(victim: Victim) -> None:
    """Answer requests on stdin until it is closed."""
    loops = [asyncio.ensure_future(loop()) for loop in (victim.stream, victim.health, victim.requests, victim.lag)]
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        request = json.loads(line)
        if request["op"] == "begin":
            victim.seen = Waits()
        else:
            await victim.gone_on(request["within_s"])
        print(json.dumps(asdict(victim.seen)), flush=True)
    for loop in loops:
        loop.cancel()


if __name__ == "__main__":
    uvloop.run(answer_requests(Victim(int(sys.argv[1]), sys.argv[2], sys.argv[3])))
