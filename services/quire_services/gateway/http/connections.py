"""Connections: how many there are, and which one makes room when there are too many.

A connection is idle while no request of it is being answered: one that has just been opened, that sends its head
drop by drop, or that waits for its next request. When there are as many as may be, an idle one is closed for each that
comes: the one that has been idle longest, of the address that has most. So silence never keeps a client out, and a
proxy in front, whose connections all have one address, is served as far as there is room. Only if all are at work is
the new one refused.

Invariant: an idle connection is in ``_idle`` under its address, one at work does not.
"""

from __future__ import annotations

import resource
import time
from collections import OrderedDict
from typing import Protocol

import structlog

SPARE_FILES = 128  # kept for everything that is no connection
DEFAULT_CONNECTIONS = 4096
WARNING_INTERVAL_S = 60.0
log = structlog.get_logger()


class Connection(Protocol):
    """What is counted. ``client`` is (address, port)."""

    client: tuple[str, int] | None

    def close_idle(self) -> None:
        """Close, now."""


class Connections:
    """All connections of a server.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0
        self._idle: dict[str, OrderedDict[Connection, None]] = {}
        self._closing: set[Connection] = set()
        self._said = -WARNING_INTERVAL_S

    def opened(self, connection: Connection) -> bool:
        """Count a new one, which is idle; whether there is room."""
        self._open += 1
        room = self._open - len(self._closing) <= self._most or self._make_room()
        if room:
            self.idle(connection)
        return room

    def idle(self, connection: Connection) -> None:
        """It waits for a request."""
        self._idle.setdefault(_address(connection), OrderedDict())[connection] = None

    def busy(self, connection: Connection) -> None:
        """It has a request."""
        address = _address(connection)
        if (of_address := self._idle.get(address)) is not None:
            of_address.pop(connection, None)
            if not of_address:
                del self._idle[address]

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self._open -= 1
        self._closing.discard(connection)
        self.busy(connection)

    def _make_room(self) -> bool:
        busiest = max(self._idle.values(), key=len, default=None)
        self._say(sum(map(len, self._idle.values())))
        if busiest is None:
            return False
        oldest = next(iter(busiest))
        self.busy(oldest)
        self._closing.add(oldest)
        oldest.close_idle()
        return True

    def _say(self, idle: int) -> None:
        """One line a minute at most, however many come."""
        now = time.monotonic()
        if now - self._said >= WARNING_INTERVAL_S:
            self._said = now
            log.warning("connections_full", open=self._open, idle=idle, limit=self._most)


def _address(connection: Connection) -> str:
    return connection.client[0] if connection.client else ""


def raise_file_limit() -> int:
    """Allow this process as many files as the system does; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        soft = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 20)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def most_connections(asked: int, files: int) -> int:
    """How many connections there may be: as many as asked for, by default
    ``DEFAULT_CONNECTIONS``, and as the files allow."""
    return max(1, min(asked or DEFAULT_CONNECTIONS, files - SPARE_FILES))
