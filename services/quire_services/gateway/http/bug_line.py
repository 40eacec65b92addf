"""The line of the log for an exception of our own while a request is served: where it happened, and not what it says.

The message of an exception may quote what a client sent ("invalid literal for int(): ..."), and no log holds prompts.
"""

from __future__ import annotations

import traceback

import structlog

log = structlog.get_logger()


def log_bug(error: BaseException) -> None:
    """Log an exception, with all that have led to it: their kinds and frames."""
    parts, seen = list[str](), set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        parts.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__name__)
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            break
        error = cause
    log.error("bug", error=parts[0].rpartition("\n")[2], stack="\n\nraised while handling\n\n".join(parts))
