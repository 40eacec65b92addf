"""OtelTracer: spans by OpenTelemetry's SDK, sent in batches to an OTLP endpoint by a thread of its own.

Nothing imports this module but ``switch``, where an endpoint is set. The queue between the spans and the thread is
bounded and drops the oldest; whether anything takes them is no business of those who make them (``QuietExporter``).

Whoever calls the gateway may bring a trace of its own (W3C Trace Context). What is no traceparent, or is there twice,
is left aside, and the request begins a trace. Whether one is recorded its caller has decided or, without one, the
sampler (``OTEL_TRACES_SAMPLER``); all other variables of the SDK and the exporter hold as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from quire_proto import __version__
from quire_proto.spans import INTERNAL, NO_ATTRIBUTES, SERVER, Attributes, Span

from .quiet_exporter import QuietExporter

LONGEST_CONTEXT = 512  # characters of a header of a client
SAMPLED = 1
END_S = 2.0  # for what is still queued when a process ends
_KINDS = {kind.name: kind for kind in SpanKind}


class OtelSpan:
    """A span that is recorded."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer, self._span = tracer, span

    @property
    def context(self) -> str:
        """Its traceparent."""
        own = self._span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{int(own.trace_flags):02x}"

    def child(
        self, name: str, kind: str = INTERNAL, attributes: Attributes = NO_ATTRIBUTES, at: float | None = None
    ) -> OtelSpan:
        """Begin a span within it."""
        within = set_span_in_context(self._span, Context())
        span = self._tracer.start_span(name, within, _KINDS[kind], attributes, start_time=_unix_ns(at))
        return OtelSpan(self._tracer, span)

    def event(self, name: str, attributes: Attributes = NO_ATTRIBUTES) -> None:
        """Something has happened in it."""
        self._span.add_event(name, attributes)

    def rename(self, name: str) -> None:
        """It is known now what it is."""
        self._span.update_name(name)

    def end(self, attributes: Attributes = NO_ATTRIBUTES, error: str = "", at: float | None = None) -> None:
        """End it; ``error``: with what code it has failed."""
        self._span.set_attributes(attributes)
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(_unix_ns(at))


class OtelTracer:
    """The tracer of one process.

    Args:
        service: what the process is: gateway, engine or kvstore.
        instance: its name among those.
        endpoint: URL to which batches are sent as OTLP over HTTP, with its path.
    """

    def __init__(self, service: str, instance: str, endpoint: str) -> None:
        own = {
            "service.name": f"quire-{service}",
            "service.namespace": "quire",
            "service.instance.id": instance,
            "service.version": __version__,
        }
        self._provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        self._batches = BatchSpanProcessor(QuietExporter(OTLPSpanExporter(endpoint), endpoint))
        self._provider.add_span_processor(self._batches)
        self._tracer = self._provider.get_tracer("quire", __version__)
        self._headers = TraceContextTextMapPropagator()

    def begin(self, name: str, traceparents: Sequence[str], tracestate: str, at: float | None = None) -> Span | None:
        """Begin to serve a caller from outside, in its trace if it names one, else in a new one. None if that is not
        recorded."""
        given = {}
        if len(traceparents) == 1 and len(traceparents[0]) <= LONGEST_CONTEXT:
            given = {"traceparent": traceparents[0]}
            if tracestate and len(tracestate) <= LONGEST_CONTEXT:
                given["tracestate"] = tracestate
        return self._recorded(self._headers.extract(given, Context()), name, NO_ATTRIBUTES, at)

    def join(
        self, context: str, name: str, attributes: Attributes = NO_ATTRIBUTES, at: float | None = None
    ) -> Span | None:
        """Begin to serve what another process of the stack has asked for within a span of its own."""
        if len(context) > LONGEST_CONTEXT:
            return None
        within = self._headers.extract({"traceparent": context}, Context())
        return self._recorded(within, name, attributes, at) if within else None

    def close(self) -> None:
        """Send what is queued, for a moment; what is made afterwards is lost."""
        last = threading.Thread(target=self._batches.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(END_S)

    def _recorded(self, within: Context, name: str, attributes: Attributes, at: float | None) -> Span | None:
        span = self._tracer.start_span(name, within, _KINDS[SERVER], attributes, start_time=_unix_ns(at))
        return OtelSpan(self._tracer, span) if span.is_recording() else None


def _unix_ns(at: float | None) -> int | None:
    """A moment of the monotonic clock, as Unix time."""
    return None if at is None else time.time_ns() - int((time.monotonic() - at) * 1e9)
