"""Whether the addresses that a stack will listen on are free, asked before anything is started.

A bound socket that does not listen yet shares its port with others of that kind (SO_REUSEADDR), so only ``listen``
tells. The gateway asks again when it begins to listen: between the two another process may have been faster.
"""

from __future__ import annotations

import socket

from .settings import Gateway

ADMIN_HOST = "127.0.0.1"


class PortTaken(Exception):
    """An address cannot be listened on; one line says which setting and why."""


def check(gateway: Gateway) -> int:
    """The port of the API: the configured one, or for 0 one that is free. Raises PortTaken."""
    port = _listen("gateway.port", gateway.host, gateway.port)
    if gateway.admin_port:
        _listen("gateway.admin_port", ADMIN_HOST, gateway.admin_port)
    return port


def _listen(setting: str, host: str, port: int) -> int:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
            return int(probe.getsockname()[1])
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise PortTaken(
            f"{setting}: cannot listen on {host}:{port}: {why}; choose another port or stop its owner"
        ) from None
