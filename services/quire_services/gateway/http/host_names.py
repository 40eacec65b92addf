"""Host names: which a request may name in its Host header where no key says that a person meant this gateway.

A web page may give the loopback, or any address near it, a name of its own in the DNS (rebinding), and then nothing is
of another origin for the browser. So the host must be an address, a name that no public DNS has (``localhost``, or one
without a dot), or one that the operator named.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers

from .errors import ApiError


class HostNames:
    """The names of one gateway. ``named``: by its operator."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        self._named = {name.lower() for name in named}

    def insist(self, headers: Headers) -> None:
        """Raise ApiError 403 for a host that is not ours."""
        host = headers.get("host", "localhost")
        if not self._is_ours(host):
            raise ApiError(
                403,
                f"the host {host[:80]!r} is not one of this gateway's: name it with --allowed-hosts",
                type="permission_error",
                code="host_not_allowed",
            )

    def _is_ours(self, host: str) -> bool:
        name = host.strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self._named or name.endswith(".localhost") or (name and "." not in name.rstrip(".")):
            return True  # an address of IPv6 is mostly one without a dot, too
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
