"""Spans: what processes tell of their part in a request that is traced. The interface alone.

Engine and kvstore are given a ``Tracer``, or None, which costs them nothing; what stands behind it is OpenTelemetry
(``quire_services.tracing``), which neither imports. A span's name to other processes is its ``context``, a traceparent
as W3C Trace Context writes it; it travels in the optional ``trace`` fields of messages.

Times are of the monotonic clock, in seconds; None is now. Nothing of a prompt or an answer belongs in an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]
NO_ATTRIBUTES: Attributes = {}
INTERNAL, SERVER, CLIENT = "INTERNAL", "SERVER", "CLIENT"  # kinds: as OpenTelemetry names them


class Span(Protocol):
    """A span that has begun. It is told when it has ended; one that never ends is never told."""

    @property
    def context(self) -> str:
        """Its traceparent."""
        ...

    def child(
        self, name: str, kind: str = INTERNAL, attributes: Attributes = NO_ATTRIBUTES, at: float | None = None
    ) -> Span:
        """Begin a span within it."""
        ...

    def rename(self, name: str) -> None:
        """It is known now what it is."""
        ...

    def event(self, name: str, attributes: Attributes = NO_ATTRIBUTES) -> None:
        """Something has happened in it."""
        ...

    def end(self, attributes: Attributes = NO_ATTRIBUTES, error: str = "", at: float | None = None) -> None:
        """End it; ``error``: with what code it has failed."""
        ...


class Tracer(Protocol):
    """Begins spans in one process."""

    def join(
        self, context: str, name: str, attributes: Attributes = NO_ATTRIBUTES, at: float | None = None
    ) -> Span | None:
        """Begin to serve what another process has asked for within a span of its own. None if that is not traced, or
        ``context`` is no traceparent."""
        ...
