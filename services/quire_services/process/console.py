"""Log lines for people: one short line an event, without what the supervisor has said already.

    09:06:32 [info     ] gateway[1815] request          path=/v1/models status=200 ...

Under ``quire serve`` the supervisor reports starts, ends and readiness in its own words on the same terminal, so that
the events behind them would say everything twice; they are left out there, and only there: JSON keeps them all.
"""

from __future__ import annotations

import os
from typing import Any, TextIO

import structlog

from . import reason
from .screen import ERASE_LINE

SUPERVISOR_EVENTS = frozenset(
    (
        "kvstore_started", "kvstore_stopped", "listening", "stopped", "attached", "gateway_connected", "gateway_lost",
        "engine_connected", "engine_ready",
    )
)  # fmt: skip
EVENT_WIDTH = 32


def processors(out: TextIO) -> list[structlog.typing.Processor]:
    """What renders an event for ``out``, in colour if that is a terminal."""
    terminal = out.isatty()
    rendered = structlog.dev.ConsoleRenderer(
        EVENT_WIDTH, colors=terminal, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )
    return [_short, rendered, _over_the_bar] if terminal else [_short, rendered]


def drop_supervisor_events(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Drop what the supervisor says, where there is one."""
    if reason.REASON_VARIABLE in os.environ and event.get("event") in SUPERVISOR_EVENTS:
        raise structlog.DropEvent
    return event


def _short(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["event"] = f"{event.pop('service')}[{event.pop('pid')}] {event['event']}"
    return event


def _over_the_bar(_: object, __: str, line: Any) -> str:
    """The supervisor's bar may stand in the line that this one begins in."""
    return f"{ERASE_LINE}{line}"
