"""Whether the addresses that a stack will listen on are free, asked before anything is started.

A bound socket that does not listen yet shares its port with others of that kind (SO_REUSEADDR), so only ``listen``
shows it. The gateway asks again when it begins to listen: between the two another process may have been faster.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Collection

from quire_services.config.settings import GatewaySettings

ADMIN_HOST = "127.0.0.1"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # and where what listens there is asked
_ADVICE = {
    errno.EADDRINUSE: "; choose another port or stop its owner",
    errno.EACCES: "; choose one above 1023, or run it with CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "; gateway.host must be an address of this machine",
}


class PortTaken(Exception):
    """An address cannot be listened on; one line says which setting and why."""


def check_ports(gateway: GatewaySettings, held: Collection[int] = ()) -> int:
    """The port of the API: the configured one, or for 0 one that is free. Raises PortTaken, but not for ports that are
    ``held`` by our own gateway."""
    port = gateway.port if gateway.port in held else _listen("gateway.port", gateway.host, gateway.port)
    if gateway.admin_port and gateway.admin_port not in held:
        _listen("gateway.admin_port", ADMIN_HOST, gateway.admin_port)
    return port


def _listen(setting: str, host: str, port: int) -> int:
    try:
        with bound_socket(host, port) as probe:
            probe.listen(1)
            return int(probe.getsockname()[1])
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        advice = _ADVICE.get(getattr(error, "errno", 0), "")
        raise PortTaken(f"{setting}: cannot listen on {netloc(host, port)}: {why}{advice}") from None


def free_local_port() -> int:
    """A port of the loopback that is free now."""
    with bound_socket(ADMIN_HOST, 0) as probe:
        return int(probe.getsockname()[1])


def bound_socket(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises OSError, or UnicodeError for a host that cannot be a name."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def netloc(host: str, port: int) -> str:
    """Host and port as a URL has them: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
