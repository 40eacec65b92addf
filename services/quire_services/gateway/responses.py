"""Responses: from the outputs of a call to the HTTP response, streamed or whole.

A stream's first output is awaited for ``FIRST_OUTPUT_GRACE_S``, so that what fails early fails with an HTTP status;
then the headers are sent, and a comment whenever nothing else was for a while, because proxies end connections on which
nothing moves. What fails later is an error event, after which the stream ends without ``[DONE]``. A client that hangs
up ends its call at once, streamed or not: its connection is watched from the moment the call is submitted.

Invariant: however an answer ends, its call is closed: nothing is left running at an engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import orjson
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from quire_proto.gateway_link import Output
from quire_services.gateway.http.errors import ApiError, ClientGone
from quire_services.gateway.http.hang_up import CLIENT_GONE, hang_up
from quire_services.gateway.http.request_log import RequestRecord, outcome_of
from quire_services.gateway.text.choices import Choice, Delta

from .generations import Arrival, Call, Generation

FIRST_OUTPUT_GRACE_S = 0.2
PING_COMMENT = b": ping\n\n"  # a comment: clients skip it (WHATWG HTML, server-sent events)
Deltas = list[tuple[Choice, Delta]]


class Shape(Protocol):
    """The objects of one API."""

    prefix: str
    whole: str
    piece: str
    with_ids: bool
    about_prompt: dict[str, Any]  # fields of the whole answer, or of a stream's first object

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """The first streamed object of a choice, if there is one before its text."""

    def chunks(self, choice: Choice, delta: Delta) -> list[dict[str, Any]]:
        """The streamed choice objects that a delta becomes; none if it has nothing to say."""

    def choice(self, choice: Choice, total: Delta) -> dict[str, Any]:
        """A whole choice object."""


class CallResponse:
    """The response to one call.

    Args:
        call: submitted generations.
        choices: one for each continuation, in order.
        shape: the API's objects.
        model: name of the model, as the client asked for it.
        record: what the access log and the counters will say.
        ping_s: seconds of silence after which a stream sends a comment; 0 for never.
        counted: each object of a stream says what was used so far.
    """

    def __init__(
        self,
        call: Call,
        choices: list[Choice],
        shape: Shape,
        model: str,
        record: RequestRecord,
        ping_s: float = 0,
        counted: bool = False,
    ) -> None:
        self._call = call
        self._choices = choices
        self._shape = shape
        self._record = record
        self._head = {"id": shape.prefix + record.id_suffix, "created": int(time.time()), "model": model}
        self._ping_s = ping_s
        self._counted = counted
        self._first = shape.about_prompt  # what the first object of a stream has besides

    async def send_to(self, receive: Receive, stream: bool, with_usage: bool) -> Response:
        """The response; the call is closed when it has been sent. Raises ApiError if nothing could be sent."""
        watch = asyncio.ensure_future(_watch(receive, self._call))
        handed_over = False
        try:
            if not stream:
                return JSONResponse(await self._whole())
            deltas = self._run(self._call.outputs(FIRST_OUTPUT_GRACE_S, self._ping_s))
            events = EventStream(self._events(await anext(deltas), deltas, with_usage), self._call, watch)
            handed_over = True
            return events
        except ClientGone:
            self._record.outcome = "client_gone"
            return Response(status_code=CLIENT_GONE)  # for the access log: no client reads it
        finally:
            if not handed_over:
                watch.cancel()
                self._call.close()

    async def _run(self, arrivals: AsyncIterator[list[Arrival]]) -> AsyncIterator[Deltas]:
        """What the outputs that came together add to their choices."""
        async for outputs in arrivals:
            if outputs and self._record.ttft_s is None:
                self._record.ttft_s = time.monotonic() - self._call.began
            deltas = [self._feed(*one) for one in outputs]
            self._record.cached_tokens = sum(g.cached_tokens for g in self._call.generations)
            yield [one for one in deltas if one is not None]

    def _feed(self, generation: Generation, output: Output) -> tuple[Choice, Delta] | None:
        """What one output adds to its choice; None if it came after the cut."""
        choice = self._choices[generation.first_choice + output.index]
        if choice.cut:
            return None
        before = choice.tokens
        delta = choice.feed(output)
        self._record.completion_tokens += choice.tokens - before
        if delta.cut:
            generation.cut(output.index)
        return choice, delta

    async def _whole(self) -> dict[str, Any]:
        totals = [Delta() for _ in self._choices]
        async for deltas in self._run(self._call.outputs()):
            for choice, delta in deltas:
                total = totals[choice.index]
                total.text += delta.text
                total.tokens += delta.tokens
                total.logprobs += delta.logprobs
                total.events += delta.events
                total.finish = delta.finish
        objects = [self._shape.choice(c, total) for c, total in zip(self._choices, totals, strict=True)]
        head = self._head | self._shape.about_prompt
        return head | {"object": self._shape.whole, "choices": objects, "usage": self._record.usage()}

    async def _events(self, first: Deltas, rest: AsyncIterator[Deltas], with_usage: bool) -> AsyncIterator[bytes]:
        """The events of the stream, ready to send; those of outputs that came together are sent together."""
        opened: set[int] = set()
        usage = {"usage": None} if with_usage else {}
        sent = time.monotonic()
        try:
            async for deltas in _chain(first, rest):
                events = [event for choice, delta in deltas for event in self._pieces(choice, delta, opened, usage)]
                if not events and self._ping_s and time.monotonic() - sent > 0.9 * self._ping_s:
                    events = [PING_COMMENT]
                if events:
                    yield b"".join(events)
                    sent = time.monotonic()
            if with_usage:
                yield self._event([], {"usage": self._record.usage()})
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            self._record.outcome = outcome_of(error.status)
            self._record.error = error.message
            yield b"data: %b\n\n" % orjson.dumps(error.body())
        except ClientGone:
            self._record.outcome = "client_gone"

    def _pieces(self, choice: Choice, delta: Delta, opened: set[int], usage: dict[str, Any]) -> Iterator[bytes]:
        """The events of one delta, before the first of a choice the one that opens it."""
        if self._counted:
            usage = {"usage": self._record.usage()}
        if choice.index not in opened:
            opened.add(choice.index)
            if opening := self._shape.opening(choice):
                yield self._event([opening], usage)
        for chunk in self._shape.chunks(choice, delta):
            yield self._event([chunk], usage)

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any]) -> bytes:
        chunk = self._head | self._first | {"object": self._shape.piece, "choices": choices} | usage
        self._first = {}
        return b"data: %b\n\n" % orjson.dumps(chunk)


class EventStream(Response):
    """Server-sent events. Ends its call whether the stream ends, the client leaves or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], call: Call, watch: asyncio.Future[None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._call = call
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send the stream."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._watch.cancel()
            self._call.close()


async def _watch(receive: Receive, call: Call) -> None:
    """End the call when the client hangs up."""
    await hang_up(receive)
    call.hang_up()


async def _chain(first: Deltas, rest: AsyncIterator[Deltas]) -> AsyncIterator[Deltas]:
    yield first
    async for item in rest:
        yield item
