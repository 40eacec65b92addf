"""Switch: whether a process traces. Without an endpoint it imports nothing of OpenTelemetry and makes no span."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from quire_services.process.reason import StartError

if TYPE_CHECKING:
    from .otel_tracer import OtelTracer


def start_tracer(service: str, instance: str, endpoint: str) -> OtelTracer | None:
    """The tracer of this process, if ``endpoint`` is one. Call it when this process forks no more: a tracer has a
    thread. Raises StartError if there can be none."""
    if not endpoint:
        return None
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise StartError(f"serve.otlp_traces_endpoint = {endpoint!r}: a URL like http://127.0.0.1:4318/v1/traces")
    try:
        from .otel_tracer import OtelTracer
    except ImportError as error:
        why = f"serve.otlp_traces_endpoint is set, and OpenTelemetry is not installed ({error})"
        raise StartError(f"{why}: pip install 'quire-kv[tracing]'") from None
    return OtelTracer(service, instance, endpoint)
