"""Origin and Host: which web pages may talk to the gateway through a user's browser.

A page of another origin asks first (CORS, a preflight without credentials) and is answered only if the operator named
its origin. A gateway without keys is reached by everything that runs on its host, the browser included, and a page
may give the loopback a name of its own in the DNS (rebinding): then nothing is of another origin and only the Host
header tells. So without keys the host must be an address, a name that no public DNS has (``localhost``, or one
without a dot), or one that the operator named. With keys none of this is needed: no page has them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from quire_services.gateway.http.errors import ApiError

from .api_keys import ApiKeys

EXPOSED = ("x-request-id", "request-id", "x-quire-engine", "retry-after", "retry-after-ms")


def listed(setting: str) -> tuple[str, ...]:
    """The words of a setting that is a list, separated by commas."""
    return tuple(word.strip() for word in setting.split(",") if word.strip())


def with_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """An application that answers pages of these origins, ``*`` being all, and their preflights, which have no key."""
    if not origins:
        return app
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=EXPOSED
    )


def tenant_resolver(api_keys: ApiKeys, hosts: Sequence[str]) -> Callable[[Headers], str]:
    """What finds the tenant of a request's headers. ``hosts``: names that a gateway without keys has beside the usual
    ones. It raises ApiError 401, or 403 for a host that is not ours."""
    named = {host.lower() for host in hosts}

    def tenant_of(headers: Headers) -> str:
        if api_keys.open and not _is_ours(headers.get("host", "localhost"), named):
            raise ApiError(
                403,
                f"the host {headers.get('host', '')[:80]!r} is not one of this gateway's: name it with --allowed-hosts",
                type="permission_error",
                code="host_not_allowed",
            )
        return api_keys.tenant(_authorization(headers))

    return tenant_of


def _authorization(headers: Headers) -> str | None:
    """The key as clients of OpenAI's API send it, or, without that header, as those of Anthropic's do."""
    given, key = headers.get("authorization"), headers.get("x-api-key")
    return given if given is not None or key is None else f"Bearer {key}"


def _is_ours(host: str, named: set[str]) -> bool:
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name in named or name.endswith(".localhost") or (name and "." not in name.rstrip(".")):
        return True  # an address of IPv6 is mostly one without a dot, too
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
