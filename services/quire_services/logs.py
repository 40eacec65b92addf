"""Logs: one structlog set-up for all services.

JSON lines on stderr, so that stdout stays free for answers and progress; on a terminal the same events in colour.
``event`` is a fixed snake_case name, everything that varies is a field. Records of the standard library (uvicorn,
asyncio) take the same way out. Only ``services`` configures logging; other packages just ask structlog for a logger.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")


def configure(service: str, level: str = "", stream: TextIO | None = None) -> None:
    """Send all logs of this process to ``stream`` (default stderr), each with ``service`` and the process id.

    ``level`` defaults to ``LOG_LEVEL`` in the environment, then to ``info``; another word means ``info``.
    """
    out = stream or sys.stderr
    chosen = (level or os.environ.get("LOG_LEVEL", "info")).lower()
    number = logging.getLevelNamesMapping()[chosen.upper() if chosen in LEVELS else "INFO"]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = out.isatty()
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=True)]
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    structlog.contextvars.bind_contextvars(service=service, pid=os.getpid())
