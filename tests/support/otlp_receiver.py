"""A receiver of OTLP over HTTP: what a collector takes, decoded by OpenTelemetry's own messages, for tests."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.waits import wait_for


@dataclass(frozen=True)
class Told:
    """A span as it was received."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    service: str
    instance: str
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    failed: bool
    began: int
    ended: int


@dataclass
class OtlpReceiver:
    """The spans that have come, and the bytes that they came in."""

    url: str
    spans: list[Told] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def trace(self, trace: str, enough: Callable[[list[Told]], Any] = bool) -> list[Told]:
        """The spans of a trace, by their beginning, once there are enough."""

        def found() -> list[Told]:
            return sorted((one for one in list(self.spans) if one.trace == trace), key=lambda one: one.began)

        wait_for(lambda: enough(found()), f"the spans of {trace} have come", 30)
        return found()


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """One on a free port."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.raw.append(body)
            received.spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = OtlpReceiver(f"http://127.0.0.1:{server.server_port}/v1/traces")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _spans(request: Any) -> Iterator[Told]:
    for resource in request.resource_spans:
        own = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Told(
                    span.name,
                    span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    own["service.name"],
                    own["service.instance.id"],
                    _attributes(span.attributes),
                    [(event.name, _attributes(event.attributes)) for event in span.events],
                    span.status.code == 2,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    held = getattr(value, kind)
    return [_value(one) for one in held.values] if kind == "array_value" else held
