"""An HTTP server inside a loop that it does not own: bound sockets, and uvicorn without its own signals and logs."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from quire_services.process.port_check import bound_socket, netloc

from .protocol import Bounds, HttpProtocol

BACKLOG = 2048
KEEP_ALIVE_S = 75


class BindError(Exception):
    """The address cannot be listened on; the message says why."""


class HttpServer(uvicorn.Server):
    """uvicorn that leaves signals alone: its process drains first. ``serve(sockets=[...])`` ends soon after
    ``should_exit`` is set, running requests having had ``drain_s`` seconds and a bit."""

    def __init__(self, app: ASGIApp, drain_s: float, bounds: Bounds) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(HttpProtocol, bounds=bounds),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                log_level="warning",  # its starts and ends are logged as events of our own
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(drain_s) + 2,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises BindError."""
    try:
        return bound_socket(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BindError(f"cannot listen on {netloc(host, port)}: {reason}") from None


def listen(bound: socket.socket) -> None:
    """Let a bound socket listen. Raises BindError: only now it shows whether another one listens there already."""
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise BindError(f"cannot listen on {netloc(host, port)}: {error.strerror}") from None
