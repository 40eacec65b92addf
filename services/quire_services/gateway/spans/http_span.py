"""The span of an HTTP request, from its head to the last byte of its answer, named as HTTP's conventions have it.

A status of 500 or above is an error of the gateway, one below is the client's, and no error of the span. What breaks
off an answer whose head was sent already counts by what it would have been.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Scope

from quire_proto.spans import Attributes, Span
from quire_services.gateway.http.hang_up import CLIENT_GONE
from quire_services.gateway.http.request_log import RequestRecord

PATH_CHARS = 200  # of what a client may send


class CallersTracer(Protocol):
    """Begins the spans of requests from outside."""

    def begin(self, name: str, traceparents: Sequence[str], tracestate: str, at: float | None = None) -> Span | None:
        """In the caller's trace or a new one; None if that is not recorded."""
        ...


def begin_http_span(tracer: CallersTracer, scope: Scope, headers: Headers, record: RequestRecord) -> Span | None:
    """Begin the span of a request."""
    states = ",".join(headers.getlist("tracestate"))
    return tracer.begin(scope["method"], headers.getlist("traceparent"), states, record.arrived)


def end_http_span(span: Span, scope: Scope, record: RequestRecord) -> None:
    """The request is over."""
    route = getattr(scope.get("route"), "path", "")
    if route:
        span.rename(f"{scope['method']} {route}")
    told: Attributes = {
        "http.request.method": scope["method"],
        "http.route": route,
        "http.response.status_code": record.status or CLIENT_GONE,
        "url.scheme": scope["scheme"],
        "url.path": scope["path"][:PATH_CHARS],
        "quire.request_id": record.request_id,
        "quire.tenant": record.tenant,
        "quire.outcome": record.outcome,
    }
    broken = "5xx" if record.outcome == "5xx" else ""
    span.end(told, error=str(record.status) if record.status >= 500 else broken)
