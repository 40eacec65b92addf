"""QuietExporter: batches go to the endpoint, and one line of the log says when that stops working, one when it works.

The exporter itself says it for every batch, the SDK for every span that its queue has no room for; a collector that is
down would fill the log. What both have to say is kept here, and the last of it is the reason in that line.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

log = structlog.get_logger()


class _LastWords(logging.Handler):
    """Keeps what was logged last."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.words = record.getMessage()


class QuietExporter:
    """An exporter of the SDK around another. ``endpoint``: where that sends to."""

    def __init__(self, exporter: Any, endpoint: str) -> None:
        self._exporter, self._endpoint = exporter, endpoint
        self._works = True
        self._said = _LastWords()
        library = logging.getLogger("opentelemetry")
        library.handlers, library.propagate = [self._said], False

    def export(self, spans: Any) -> Any:
        """Send a batch; what is not taken is lost."""
        outcome = self._exporter.export(spans)
        works = outcome.name == "SUCCESS"
        if self._works and not works:
            log.warning("spans_lost", endpoint=self._endpoint, reason=self._said.words)
        elif works and not self._works:
            log.info("spans_taken", endpoint=self._endpoint)
        self._works = works
        return outcome

    def shutdown(self) -> None:
        """Nothing more is sent."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return bool(self._exporter.force_flush(timeout_millis))
