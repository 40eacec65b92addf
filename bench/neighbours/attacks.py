"""What a hostile tenant sends: bodies that cost more than they look, and floods of requests of which each is valid.

An attack is made before the clock runs (its bytes are ready) and then sent; it returns what it was answered, by
status, "cut" for a connection that ended without one.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"
SENTENCE = "The quick brown fox jumps over the lazy dog. "
HOLD_S = 8.0  # how long those stay that send or read nothing
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

StatusCounts = Counter[str]
Send = Callable[[], Awaitable[StatusCounts]]


@dataclass(frozen=True, slots=True)
class AttackedGateway:
    """The gateway, the attacker's key, the model's name, and the token that is half a character."""

    port: int
    key: str
    model: str
    half: int

    def request(self, path: str, body: bytes, headers: str = "", key: bool = True, length: int | None = None) -> bytes:
        """A request as bytes."""
        size = len(body) if length is None else length
        credentials = f"Authorization: Bearer {self.key}\r\n" if key else ""
        return (
            f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{credentials}{headers}Content-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {size}\r\n\r\n"
        ).encode() + body

    def json(self, path: str, **fields: Any) -> bytes:
        """A request with a body of these fields."""
        return self.request(path, json.dumps({"model": self.model, "max_tokens": 1, **fields}).encode())


async def answer(port: int, request: bytes) -> str:
    """Send a request, read all that comes, return its status."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return "cut"
    head = b""
    try:
        writer.write(request)
        while data := await reader.read(1 << 16):
            head = (head + data)[:12] if len(head) < 12 else head
    except OSError:
        pass
    finally:
        writer.close()
    return head[9:12].decode() or "cut"


async def hold(port: int, request: bytes, seconds: float) -> str:
    """Send a request (or a part of it) and read nothing for a while."""
    try:
        _, writer = await asyncio.open_connection(HOST, port, limit=1)
        writer.write(request)
        await asyncio.sleep(seconds)
        writer.transport.abort()
    except OSError:
        return "cut"
    return "held"


def all_at_once(target: AttackedGateway, requests: list[bytes]) -> Send:
    """Each on a connection of its own, all at the same time."""

    async def send() -> StatusCounts:
        return Counter(await asyncio.gather(*(answer(target.port, request) for request in requests)))

    return send


def held(target: AttackedGateway, requests: list[bytes]) -> Send:
    """The same without reading an answer."""

    async def send() -> StatusCounts:
        return Counter(await asyncio.gather(*(hold(target.port, request, HOLD_S) for request in requests)))

    return send


def chat_12mb(t: AttackedGateway) -> Send:
    """vllm-project/vllm#24910."""
    return all_at_once(t, [t.json(CHAT, messages=[{"role": "user", "content": SENTENCE * (12_000_000 // 45)}])])


def prompt_31mb(t: AttackedGateway) -> Send:
    """One text as long as a body may be."""
    return all_at_once(t, [t.json(COMPLETIONS, prompt=SENTENCE * (31_000_000 // 45))])


def empty_messages(t: AttackedGateway) -> Send:
    """800,000 messages without a word."""
    return all_at_once(t, [t.json(CHAT, messages=[{"role": "user", "content": ""}] * 800_000)])


def content_parts(t: AttackedGateway) -> Send:
    """300,000 parts of one message."""
    parts = [{"type": "text", "text": "a"}] * 300_000
    return all_at_once(t, [t.json(CHAT, messages=[{"role": "user", "content": parts}])])


def token_ids(t: AttackedGateway) -> Send:
    """Two million token ids."""
    return all_at_once(t, [t.json(COMPLETIONS, prompt=[7] * 2_000_000)])


def hung_up(t: AttackedGateway) -> Send:
    """Six chats of 4 MB, each sent whole and given up."""
    request = t.json(CHAT, messages=[{"role": "user", "content": SENTENCE * (4_000_000 // 45)}])

    async def one() -> str:
        try:
            _, writer = await asyncio.open_connection(HOST, t.port)
            writer.write(request)
            await asyncio.wait_for(writer.drain(), HOLD_S)
            await asyncio.sleep(0.2)
            writer.transport.abort()
        except (OSError, TimeoutError):
            return "cut"
        return "hung up"

    async def send() -> StatusCounts:
        return Counter(await asyncio.gather(*(one() for _ in range(6))))

    return send


def nested(t: AttackedGateway) -> Send:
    """JSON a hundred thousand levels deep, and tool arguments of a thousand."""
    deep = f'{{"model":"{t.model}","prompt":"x","max_tokens":1,"x":{"[" * 100_000}{"]" * 100_000}}}'.encode()
    call = {
        "type": "function",
        "id": "call_1",
        "function": {"name": "f", "arguments": '{"a":' * 1000 + "1" + "}" * 1000},
    }
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "y"},
    ]
    return all_at_once(t, [t.request(COMPLETIONS, deep), t.json(CHAT, messages=messages)] * 10)


def trickle(t: AttackedGateway) -> Send:
    """Two hundred bodies of which half comes at once and then a byte at a time."""
    start = t.request(COMPLETIONS, b'{"prompt":"' + b"x" * 50_000, length=100_000)

    async def one() -> str:
        try:
            _, writer = await asyncio.open_connection(HOST, t.port)
            writer.write(start)
            for _ in range(round(HOLD_S / 0.2)):
                writer.write(b"x")
                await asyncio.sleep(0.2)
            writer.transport.abort()
        except OSError:
            return "cut"
        return "held"

    async def send() -> StatusCounts:
        return Counter(await asyncio.gather(*(one() for _ in range(200))))

    return send


def half_characters(t: AttackedGateway) -> Send:
    """Answers of tokens that no decoder can show: four of 6,000."""
    fields = {"prompt": [t.half], "max_tokens": 6000, "stream": True, "ignore_eos": True, "temperature": 0}
    return all_at_once(t, [t.json(COMPLETIONS, **fields)] * 4)


def long_headers(t: AttackedGateway) -> Send:
    """Heads of 100 KB, two hundred at a time."""
    headers = "".join(f"X-{i}: {'h' * 990}\r\n" for i in range(100))
    return all_at_once(t, [t.request(COMPLETIONS, b"{}", headers=headers)] * 200)


def long_paths(t: AttackedGateway) -> Send:
    """Five hundred requests without a key, for a path of 54 kB."""
    return all_at_once(t, [t.request("/v1/" + "p" * 54_000, b"", key=False)] * 500)


def unread(t: AttackedGateway) -> Send:
    """Two streams of 64 answers with log probabilities, none of which is read."""
    fields = {"n": 64, "max_tokens": 1500, "stream": True, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
    return held(t, [t.json(CHAT, messages=[{"role": "user", "content": "x"}], **fields)] * 2)


def requests_1200(t: AttackedGateway) -> Send:
    """1,200 small requests."""
    return all_at_once(t, [t.json(COMPLETIONS, prompt=f"{i}: {SENTENCE * 5}", max_tokens=32) for i in range(1200)])


def prompts_1024(t: AttackedGateway) -> Send:
    """One request of 1,024 prompts."""
    return all_at_once(t, [t.json(COMPLETIONS, prompt=[f"{i}: {SENTENCE * 5}" for i in range(1024)], max_tokens=32)])


def many_choices(t: AttackedGateway) -> Send:
    """Twenty requests of 64 answers each."""
    fields = {"n": 64, "max_tokens": 64, "ignore_eos": True}
    return all_at_once(t, [t.json(COMPLETIONS, prompt=f"{i}: {SENTENCE}", **fields) for i in range(20)])


def silent(t: AttackedGateway) -> Send:
    """1,100 connections that say nothing, or half a head."""
    return held(t, [b"", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A: "] * 550)


BODIES: dict[str, Callable[[AttackedGateway], Send]] = {
    "chat of 12 MB": chat_12mb,
    "prompt of 31 MB": prompt_31mb,
    "800,000 empty messages": empty_messages,
    "300,000 content parts": content_parts,
    "2,000,000 token ids": token_ids,
    "six 4 MB chats, hung up": hung_up,
    "deeply nested JSON": nested,
    "200 trickling bodies": trickle,
    "24,000 half characters": half_characters,
    "headers of 100 KB": long_headers,
    "paths of 54 kB, no key": long_paths,
    "two unread streams, n=64": unread,
}
FLOODS: dict[str, Callable[[AttackedGateway], Send]] = {
    "1,200 requests": requests_1200,
    "1,024 prompts in one": prompts_1024,
    "20 requests of n=64": many_choices,
    "1,100 silent connections": silent,
}
