"""Edge: what is done for every HTTP request, whatever its path.

A request id, the tenant, a limit on the body, one line in the access log, one count - here once, so that no route can
forget it. The tenant comes from the API key and from nowhere else. Everything but ``/health`` needs a key. Where no key
is needed, the web pages of strangers are kept out (``origin``). The admin API has an edge of its own, whose only
"tenant" is the operator.

Requests begin in turn, one between two looks at the sockets, tenant by tenant. So a thousand that arrive in one moment
keep the streams of others waiting for what one of them costs, and another tenant's request for little more.

This is plain ASGI: middleware that wraps the response would hide a client's hang-up from the routes.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire_services.config.settings import MAX_BODY_BYTES
from quire_services.gateway.anthropic.api_errors import is_messages
from quire_services.gateway.exposition.access import MetricsAccess, is_scraped
from quire_services.gateway.http.bug_line import log_bug
from quire_services.gateway.http.errors import ApiError, invalid
from quire_services.gateway.http.hang_up import CLIENT_GONE
from quire_services.gateway.http.request_log import RequestRecord, outcome_of
from quire_services.gateway.routes.unserved import is_unserved
from quire_services.gateway.spans.http_span import CallersTracer, begin_http_span, end_http_span
from quire_services.gateway.turns.follower_word import FOLLOWER_PATH
from quire_services.gateway.turns.shares import Shares

from .counters import Counters
from .http_app import error_response

OPEN_PATHS = frozenset({"/health"})
ARRIVALS_AT_ONCE = 16  # heads that are looked at between two looks at the sockets: whose they are costs little
MAX_WAITING_REQUESTS, REQUEST_WAIT_S = 1 << 20, 60.0  # requests are bounded by connections, and wait milliseconds each
LOGGED_CHARS = 200  # of what a client says, in a line of the log
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
log = structlog.get_logger()


class Edge:
    """Wraps an application.

    Args:
        app: the application.
        tenant_of: the tenant of a request's headers; raises ApiError.
        counters: where requests are counted.
        metrics: who may read metrics; None: who may do everything else.
        tracer: begins spans of requests; None: none is traced.
        open_paths: what needs no key, and is not logged.
        log_reads: whether reads that went well are logged, and what a follower says each second.
    """

    def __init__(
        self,
        app: ASGIApp,
        tenant_of: Callable[[Headers], str],
        counters: Counters,
        metrics: MetricsAccess | None = None,
        tracer: CallersTracer | None = None,
        open_paths: frozenset[str] = OPEN_PATHS,
        log_reads: bool = True,
    ) -> None:
        self._tracer, self._open_paths, self._log_reads = tracer, open_paths, log_reads
        self._app, self._tenant_of, self._counters, self._metrics = app, tenant_of, counters, metrics
        self._arrivals = Shares(
            ARRIVALS_AT_ONCE, ARRIVALS_AT_ONCE, most_waiting=MAX_WAITING_REQUESTS, wait_s=REQUEST_WAIT_S
        )
        self._turn = Shares(1, 1, most_waiting=MAX_WAITING_REQUESTS, wait_s=REQUEST_WAIT_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        assert scope["type"] == "http"  # websockets and lifespan are off
        await _between_looks(self._arrivals, "")
        headers = Headers(scope=scope)
        record = RequestRecord(_request_id(headers), secrets.token_hex(12))
        scope["record"] = record
        structlog.contextvars.bind_contextvars(request_id=record.request_id)  # for all lines of this task
        if self._tracer is not None and scope["path"] not in OPEN_PATHS and not is_scraped(scope["path"]):
            record.span = begin_http_span(self._tracer, scope, headers, record)
        began = time.monotonic()

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                answered = MutableHeaders(scope=message)
                answered["x-request-id"] = record.request_id
                if is_messages(scope["path"]):
                    answered["request-id"] = record.request_id  # where its clients look for it
                if record.engines:
                    answered["x-quire-engine"] = record.engines
            await send(message)

        try:
            await self._serve(scope, receive, tagged, headers, record)
        except Exception as error:  # already answered with 500, but not logged yet
            log_bug(error)
        finally:
            self._finish(scope, record, time.monotonic() - began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, headers: Headers, record: RequestRecord) -> None:
        try:
            if self._metrics is not None and is_scraped(scope["path"]):
                self._metrics.insist(scope, headers)
            elif scope["path"] not in self._open_paths:
                record.tenant = self._tenant_of(headers)
                await _between_looks(self._turn, record.tenant)
            if scope["method"] == "POST" and not is_unserved(scope["path"]):
                _insist_on_json(headers)
        except ApiError as error:
            await error_response(error, scope)(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        await self._app(scope, _limited(receive), send)

    def _finish(self, scope: Scope, record: RequestRecord, seconds: float) -> None:
        """Count and log a request that is over."""
        counters = self._counters
        if not record.outcome:
            gone = record.status in (0, CLIENT_GONE)
            record.outcome = "client_gone" if gone else outcome_of(record.status)
        counters.answered(scope["path"], record.status or CLIENT_GONE, record.outcome)
        if record.generates:
            counters.generated(record)
        if record.span is not None:
            end_http_span(record.span, scope, record)
        read = scope["method"] == "GET" or scope["path"] == FOLLOWER_PATH
        unlogged = is_scraped(scope["path"]) or (read and not self._log_reads)
        if scope["path"] in self._open_paths or (unlogged and record.outcome == "ok"):
            return  # health checks and scrapes would drown the rest; that an engine comes or goes is said where it does
        traced = {} if record.span is None else {"trace_id": record.span.context.split("-")[1]}
        log.info(
            "request",
            tenant=record.tenant,
            method=scope["method"],
            path=scope["path"][:LOGGED_CHARS],
            status=record.status,
            outcome=record.outcome,
            error=record.error[:LOGGED_CHARS],
            prompt_tokens=record.prompt_tokens,
            cached_tokens=record.cached_tokens,
            completion_tokens=record.completion_tokens,
            engines=record.engines,
            moves=record.moves,
            recomputed_tokens=record.recomputed,
            recomputed_handoff_tokens=record.recomputed_handed,
            ms=round(seconds * 1000, 1),
            ttft_ms=None if record.ttft_s is None else round(record.ttft_s * 1000, 1),
            **traced,
        )


async def _between_looks(turns: Shares, tenant: str) -> None:
    """Wait for a turn, and keep it until the loop has looked at the sockets again. Raises ApiError."""
    await turns.acquire(tenant, 1)
    asyncio.get_running_loop().call_soon(turns.release, tenant, 1)


def _insist_on_json(headers: Headers) -> None:
    """A web page may send a body of another type to any address, the loopback too, without asking first: JSON it may
    not. A compressed body could be of any size. Raises ApiError 400 or 415."""
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(
            415,
            "the body must be sent without content-encoding",
            type="invalid_request_error",
            code="unsupported_content_encoding",
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise invalid("the content-type must be application/json", code="unsupported_content_type")


def _request_id(headers: Headers) -> str:
    """The client's own request id if it is harmless, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else "req-" + secrets.token_hex(12)


def _limited(receive: Receive) -> Receive:
    """``receive`` that refuses a body larger than ``MAX_BODY_BYTES``."""
    size = 0

    async def inner() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        return message

    return inner
