"""Who may read metrics, and what routers ask for, on the port of the tenants: who comes from a network that was named.

They tell how busy a server is, no tenant and no prompt, and what scrapes or routes has no key. So the address decides,
that of the connection: a request that says it was forwarded comes from somewhere else, whatever that is, and is
refused. So is what a web page asks in a browser nearby: it says its origin, or names a host that is not ours
(``host_names``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.http.host_names import HostNames

METRICS_PATH = "/metrics"
LOAD_PATH, SOURCES_PATH, SERVER_PATH = "/load", "/kv_event_sources", "/get_server_info"
ROUTER_PATHS = frozenset({LOAD_PATH, SOURCES_PATH, SERVER_PATH})
FROM_ELSEWHERE = ("forwarded", "x-forwarded-for", "x-real-ip", "via", "origin")


def is_scraped(path: str) -> bool:
    """Whether a path is for what scrapes or routes, not for clients."""
    return path == METRICS_PATH or path.startswith(METRICS_PATH + "/") or path in ROUTER_PATHS


class MetricsAccess:
    """Networks from which metrics are read. Raises ValueError for a word that is none.

    Args:
        networks: as ``10.0.0.0/8``, or an address; none: nobody reads them here.
        hosts: names of this gateway.
    """

    def __init__(self, networks: Sequence[str], hosts: HostNames) -> None:
        self._networks = [ipaddress.ip_network(word) for word in networks]
        self._hosts = hosts

    def insist(self, scope: Scope, headers: Headers) -> None:
        """Raise ApiError 403 for a request that may not read them."""
        if not self._is_near(scope.get("client")) or any(name in headers for name in FROM_ELSEWHERE):
            raise ApiError(
                403,
                "metrics are read from the networks of --metrics-networks, and through no proxy and no web page",
                type="permission_error",
                code="metrics_not_allowed",
            )
        self._hosts.insist(headers)

    def _is_near(self, client: tuple[str, int] | None) -> bool:
        try:
            address = ipaddress.ip_address(client[0]) if client else None
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        return address is not None and any(address in network for network in self._networks)
