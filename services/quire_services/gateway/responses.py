"""Responses: from the outputs of a call to the HTTP response, streamed or whole.

A stream's first output is awaited for a moment, longer where a grammar was asked for, so that what fails early fails
with an HTTP status; then come the headers, what a stream of the API begins with, and a sign of life whenever nothing
was sent for a while, because proxies end connections on which nothing moves. What fails later is an error event, after
which the stream ends. A client that hangs up ends its call at once, streamed or not: its connection is watched from the
moment the call is submitted.

Invariant: however an answer ends, its call is closed: nothing is left running at an engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quire_proto.gateway_link import Output
from quire_services.gateway.http.errors import ApiError, ClientGone
from quire_services.gateway.http.hang_up import CLIENT_GONE, hang_up
from quire_services.gateway.http.request_log import RequestRecord, outcome_of
from quire_services.gateway.spans.inference_span import end_inference_span
from quire_services.gateway.text.choices import Choice, Delta

from .generations import Arrival, Call, Generation

FIRST_OUTPUT_GRACE_S = 0.2
COMPILED_GRACE_S = 30.0  # where a grammar was asked for and the engine may refuse it: as long as compiling takes
Deltas = list[tuple[Choice, Delta]]
_T = TypeVar("_T")


class Answer(Protocol):
    """What an API makes of the choices: objects and events."""

    ping: bytes  # what a stream sends after silence

    def whole(self, answered: Sequence[tuple[Choice, Delta]]) -> dict[str, Any]:
        """The object of a whole answer; of each choice all that it has become."""

    def opening(self) -> Iterable[bytes]:
        """The events that begin a stream, before anything has been said."""

    def events(self, choice: Choice, delta: Delta) -> Iterable[bytes]:
        """The events that a delta becomes in a stream, before the first of a choice those that open it."""

    def ending(self) -> Iterable[bytes]:
        """The events that end a stream."""

    def failure(self, error: ApiError) -> bytes:
        """The event with which a stream breaks off."""


class CallResponse:
    """The response to one call.

    Args:
        call: submitted generations.
        choices: one for each continuation, in order.
        answer: the API's objects and events.
        record: what the access log and the counters will say.
        ping_s: seconds of silence after which a stream says that it lives; 0 for never.
        long: objects of the answer may take long to make: they are made between other work of the loop.
    """

    def __init__(
        self,
        call: Call,
        choices: list[Choice],
        answer: Answer,
        record: RequestRecord,
        ping_s: float = 0,
        long: bool = False,
    ) -> None:
        self._call = call
        self._choices = choices
        self._answer = answer
        self._record = record
        self._ping_s = ping_s
        self._long = long
        self._finishes: dict[int, str] = {}  # of choices that have ended

    async def send_to(self, receive: Receive, stream: bool) -> Response:
        """The response; the call is closed when it has been sent. Raises ApiError if nothing could be sent."""
        watch = asyncio.ensure_future(_watch(receive, self._call))
        handed_over = False
        try:
            if not stream:
                return Response(await self._whole(), media_type="application/json")
            grace_s = COMPILED_GRACE_S if self._call.bound else FIRST_OUTPUT_GRACE_S
            deltas = self._run(self._call.outputs(grace_s, self._ping_s))
            events = EventStream(self._events(await anext(deltas), deltas), watch, self._close)
            handed_over = True
            return events
        except ClientGone:
            self._record.outcome = "client_gone"
            return Response(status_code=CLIENT_GONE)  # for the access log: no client reads it
        finally:
            if not handed_over:
                watch.cancel()
                self._close()

    def _close(self) -> None:
        record, call = self._record, self._call
        record.engines, record.moves = ",".join(call.engines), call.moves
        record.recomputed, record.recomputed_handed = call.recomputed, call.recomputed_handed
        call.close()
        if call.span is not None:
            finishes = [self._finishes.get(choice.index, "error") for choice in self._choices]
            end_inference_span(call.span, record, finishes, call.error)
            call.span = None

    async def _run(self, arrivals: AsyncIterator[list[Arrival]]) -> AsyncIterator[Deltas]:
        """What the outputs that came together add to their choices."""
        async for outputs in arrivals:
            if outputs and self._record.ttft_s is None:
                self._record.ttft_s = time.monotonic() - self._call.began
            deltas = [self._feed(*one) for one in outputs]
            self._record.cached_tokens = sum(g.cached_tokens or 0 for g in self._call.generations)
            yield [one for one in deltas if one is not None]

    def _feed(self, generation: Generation, output: Output) -> tuple[Choice, Delta] | None:
        """What one output adds to its choice; None if it came after the cut."""
        choice = self._choices[generation.first_choice + output.index]
        if choice.cut:
            return None
        before = choice.tokens
        delta = choice.feed(output)
        self._record.completion_tokens += choice.tokens - before
        if delta.finish:
            self._finishes[choice.index] = delta.finish
        if delta.cut:
            generation.cut(output.index)
        return choice, delta

    async def _whole(self) -> bytes:
        totals = [Delta() for _ in self._choices]
        async for deltas in self._run(self._call.outputs()):
            for choice, delta in deltas:
                total = totals[choice.index]
                total.text += delta.text
                total.tokens += delta.tokens
                total.logprobs += delta.logprobs
                total.events += delta.events
                total.finish, total.stop = delta.finish, delta.stop
        answered = list(zip(self._choices, totals, strict=True))
        return await self._made(lambda: orjson.dumps(self._answer.whole(answered)))

    async def _made(self, make: Callable[[], _T]) -> _T:
        """What ``make`` makes."""
        return await asyncio.to_thread(make) if self._long else make()

    async def _events(self, first: Deltas, rest: AsyncIterator[Deltas]) -> AsyncIterator[bytes]:
        """The events of the stream, ready to send; those of outputs that came together are sent together."""
        sent = time.monotonic()
        if opening := b"".join(self._answer.opening()):
            yield opening
        try:
            async for deltas in _chain(first, rest):
                events = await self._made(partial(self._of_deltas, deltas))
                if not events and self._ping_s and time.monotonic() - sent > 0.9 * self._ping_s:
                    events = [self._answer.ping]
                if events:
                    yield b"".join(events)
                    sent = time.monotonic()
            yield b"".join(self._answer.ending())
        except ApiError as error:
            self._record.outcome = outcome_of(error.status)
            # What is wrong with a request may be said in its own words, and those are not for the log.
            self._record.error = error.message if error.status >= 500 else error.code or error.type
            yield self._answer.failure(error)
        except ClientGone:
            self._record.outcome = "client_gone"

    def _of_deltas(self, deltas: Deltas) -> list[bytes]:
        return [event for choice, delta in deltas for event in self._answer.events(choice, delta)]


class EventStream(Response):
    """Server-sent events. Ends its call whether the stream ends, the client leaves or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], watch: asyncio.Future[None], close: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._watch = watch
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send the stream."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._watch.cancel()
            self._close()


async def _watch(receive: Receive, call: Call) -> None:
    """End the call when the client hangs up."""
    await hang_up(receive)
    call.hang_up()


async def _chain(first: Deltas, rest: AsyncIterator[Deltas]) -> AsyncIterator[Deltas]:
    yield first
    async for item in rest:
        yield item
