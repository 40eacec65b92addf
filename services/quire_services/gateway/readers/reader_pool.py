"""Reader pool: the gateway's side of the reader processes.

Three lanes, so that a tenant's body never waits for one that is many times as long: short bodies that take a grammar,
those of up to a few hundred kilobytes, and those of megabytes, whose readers have a lower priority than the gateway.
In each lane tenants take turns. A reader has one body at a time; when its client hangs up or its time is over it is
killed, and the next body gets a new one.

Invariant: a reader is idle in its lane, at work on one body, or dead.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from functools import partial
from typing import Any

import orjson
import structlog

from quire_proto.wire.u32 import unpack_u32
from quire_services.gateway.http.errors import ApiError, body_too_large, unavailable
from quire_services.gateway.openai.constraints.constraint import Constraint
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.response_api.response_draft import ResponseDraft
from quire_services.gateway.openai.response_api.response_lookup import TooLong
from quire_services.gateway.openai.response_api.response_request import Lookup
from quire_services.gateway.turns.shares import Shares

from .brief_request import body_without_prompt, error_fields, error_of
from .reader_process import FRAME_HEAD, ForkServer, too_large
from .request_bytes import SHORT_BODY_BYTES
from .request_reader import ReadRequest

SHORT_LANE_BYTES = 256 << 10
MAX_READ_S = 60.0  # for one body
MAX_WAITING_IN_LANE = 64  # bodies of one tenant in a lane
MAX_WAITING_SHORT = 1 << 20  # those that the gateway receives at once: bounded by connections
LONG_LANE_NICENESS = 5  # of the long lane
LookupUpTo = Callable[[int | None, str, list[str]], bytes]  # a ``Lookup`` that raises TooLong beyond so many bytes
log = structlog.get_logger()


class ReaderPool:
    """Reads bodies in other processes: long ones, and those that take a grammar.

    Args:
        fork_server: where readers come from.
        wide: readers in each lane.
    """

    def __init__(self, fork_server: ForkServer, wide: int) -> None:
        self._fork_server = fork_server
        self._lanes = (
            _Lane(fork_server, wide, 0, MAX_WAITING_SHORT),
            _Lane(fork_server, wide, 0, MAX_WAITING_IN_LANE),
            _Lane(fork_server, wide, LONG_LANE_NICENESS, MAX_WAITING_IN_LANE),
        )

    async def read(
        self, api: str, raw: bytes | bytearray, tenant: str, limits: Limits, lookup: LookupUpTo
    ) -> ReadRequest:
        """As ``RequestReader.read``. Raises ApiError; cancelling ends the work."""
        head, data = await self._ask(api, raw, tenant, limits, lookup)
        prompts, at = [], 0
        for length in head["lengths"]:
            prompts.append(unpack_u32(data[4 * at : 4 * (at + length)]))
            at += length
        draft = None
        if "draft" in head:
            draft = ResponseDraft(**head["draft"] | {"items": data[4 * at :]})
        constraint = head["constraint"] and Constraint(*head["constraint"])
        body = body_without_prompt(api, head["body"])
        texts, echo, preamble = head["texts"], head["echo"], head["preamble"]
        return ReadRequest(body, prompts, limits, texts, echo, draft, constraint, preamble)

    async def prompt_answer(
        self, api: str, raw: bytes | bytearray, tenant: str, limits: Limits, lookup: LookupUpTo
    ) -> bytes:
        """As ``prompt_answers.prompt_answer``. Raises ApiError; cancelling ends the work."""
        _, answer = await self._ask(api, raw, tenant, limits, lookup)
        return answer

    async def _ask(
        self, api: str, raw: bytes | bytearray, tenant: str, limits: Limits, lookup: LookupUpTo
    ) -> tuple[dict[str, Any], bytes]:
        *shorter, long = self._lanes
        said = structlog.contextvars.get_contextvars()
        asked = orjson.dumps({"api": api, "tenant": tenant, "limits": astuple(limits), "log": said})
        try:
            lane, most = long, None
            if len(raw) <= SHORT_LANE_BYTES:
                lane, most = shorter[len(raw) > SHORT_BODY_BYTES], SHORT_LANE_BYTES
            head, data = await lane.ask(tenant, asked, raw, partial(lookup, most))
        except TooLong:
            head, data = await long.ask(tenant, asked, raw, partial(lookup, None))
        if "error" in head:
            raise error_of(head["error"]) if head["error"] else RuntimeError("a reader met a bug")
        return head, data

    def close(self) -> None:
        """End all readers."""
        for lane in self._lanes:
            lane.close()
        self._fork_server.close()


class _Lane:
    def __init__(self, fork_server: ForkServer, wide: int, niceness: int, most_waiting: int) -> None:
        self._fork_server, self._niceness = fork_server, niceness
        self._turns = Shares(wide, wide, most_waiting=most_waiting, wait_s=2 * MAX_READ_S)
        self._idle: list[_Reader] = []

    async def ask(
        self, tenant: str, head: bytes, raw: bytes | bytearray, lookup: Lookup
    ) -> tuple[dict[str, Any], bytes]:
        """What a reader answers to a body. Raises what ``lookup`` raises, but for ApiError, which the reader gets."""
        async with self._turns.of(tenant):
            reader = await self._reader()
            try:
                async with asyncio.timeout(MAX_READ_S):
                    answer = await reader.ask(head, raw, lookup)
            except BaseException as error:
                reader.kill()
                if isinstance(error, EOFError | OSError):
                    raise too_large() from None  # the kernel, or the library that got no memory, ended it
                if isinstance(error, TimeoutError):
                    raise body_too_large(f"reading the body took more than {MAX_READ_S:.0f} seconds") from None
                raise
            if reader.grown:
                reader.kill()
            else:
                self._idle.append(reader)
            return answer

    async def _reader(self) -> _Reader:
        while self._idle:
            reader = self._idle.pop()
            if not reader.ended():
                return reader
            reader.kill()
        forking = asyncio.ensure_future(asyncio.to_thread(self._fork_server.fork, self._niceness))
        try:
            ours, pidfd = await asyncio.shield(forking)
        except asyncio.CancelledError:
            forking.add_done_callback(_discard)
            raise
        except OSError:
            log.error("reader_not_started")
            raise unavailable("long requests cannot be read now") from None
        stream, writer = await asyncio.open_unix_connection(sock=ours)
        return _Reader(stream, writer, pidfd)

    def close(self) -> None:
        for reader in self._idle:
            reader.kill()


class _Reader:
    def __init__(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter, pidfd: int) -> None:
        self._stream, self._writer, self._pidfd = stream, writer, pidfd
        self.grown = False

    async def ask(self, head: bytes, raw: bytes | bytearray, lookup: Lookup) -> tuple[dict[str, Any], bytes]:
        answer, data = await self._say(head, raw)
        while "lookup" in answer:
            try:
                answer, data = await self._say(b"{}", lookup(*answer["lookup"]))
            except ApiError as error:
                answer, data = await self._say(orjson.dumps({"error": error_fields(error)}), b"")
        return answer, data

    async def _say(self, head: bytes, raw: bytes | bytearray) -> tuple[dict[str, Any], bytes]:
        self._writer.write(FRAME_HEAD.pack(len(head), len(raw), False) + head)
        self._writer.write(raw)
        await self._writer.drain()
        said, data, self.grown = FRAME_HEAD.unpack(await self._stream.readexactly(FRAME_HEAD.size))
        return orjson.loads(await self._stream.readexactly(said)), await self._stream.readexactly(data)

    def ended(self) -> bool:
        return self._stream.at_eof() or self._writer.is_closing()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        self._writer.close()


def _discard(forking: asyncio.Future[tuple[socket.socket, int]]) -> None:
    """End a reader that is no longer waited for."""
    if not forking.cancelled() and forking.exception() is None:
        ours, pidfd = forking.result()
        ours.close()
        os.close(pidfd)
