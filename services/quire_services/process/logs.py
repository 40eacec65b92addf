"""Logs: one structlog set-up for all services.

JSON lines on stderr, so that stdout stays free for answers and progress; lines for people on a terminal (``console``).
``event`` is a fixed snake_case name, everything that varies is a field. Records of the standard library (uvicorn,
asyncio), warnings and exceptions that nothing caught take the same way out. Every line names service and process,
whichever thread it comes from. Only ``services`` configures logging; other packages just ask structlog for a logger.

The reason of an error is also handed to the supervisor, for its last line (``reason``).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from types import TracebackType
from typing import TextIO

import structlog

from . import console, reason
from .log_handover import accept_handovers

LEVELS = ("debug", "info", "warning", "error")


def configure(service: str, level: str = "", stream: TextIO | None = None, *, form: str = "auto") -> None:
    """Send all logs of this process to ``stream`` (default stderr), each with ``service`` and the process id.

    ``form`` is json, console or auto: console if the stream is a terminal.
    ``level`` defaults to ``LOG_LEVEL`` in the environment, then to ``info``; another word means ``info``.
    """
    out = stream or sys.stderr
    chosen = (level or os.environ.get("LOG_LEVEL", "info")).lower()
    number = logging.getLevelNamesMapping()[chosen.upper() if chosen in LEVELS else "INFO"]
    readable = form == "console" or (form == "auto" and out.isatty())
    shared: list[structlog.typing.Processor] = [
        _named(service),
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable),
        _to_the_supervisor,
    ]
    last: list[structlog.typing.Processor] = (
        console.processors(out)
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            *shared,
            *([console.drop_supervisor_events] if readable else []),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
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
    logging.raiseExceptions = False  # a line that cannot be written is dropped, not answered with a traceback
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    accept_handovers()


def _named(service: str) -> structlog.typing.Processor:
    """Puts service and process in front; no field of an event replaces them. Not by context variables: those of a
    thread or a task begin empty."""
    own = {"service": service, "pid": os.getpid()}

    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**own, **event, **own}

    return add


def _to_the_supervisor(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if event.get("level") in ("error", "critical") and "reason" in event:
        reason.report_reason(str(event["reason"]))
    return event


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """A bug: one line with the whole traceback. Ctrl-C and the end of a thread by SystemExit are none."""
    if error is None or issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    text = (str(error).splitlines() or [""])[0]
    structlog.get_logger().critical(
        "uncaught_exception", reason=f"{kind.__name__}: {text}", exc_info=(kind, error, trace)
    )
