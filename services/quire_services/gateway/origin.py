"""Origin and Host: which web pages may talk to the gateway through a user's browser.

A page of another origin asks first (CORS, a preflight without credentials) and is answered only if the operator named
its origin. A gateway without keys is reached by everything that runs on its host, the browser included, whatever name a
page gave it: so without keys the host must be one of its own (``host_names``). With keys that is not needed: no page
has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from quire_services.gateway.http.host_names import HostNames

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


def tenant_resolver(api_keys: ApiKeys, hosts: HostNames) -> Callable[[Headers], str]:
    """What finds the tenant of a request's headers. ``hosts``: those that a gateway without keys insists on. It raises
    ApiError 401, or 403 for a host that is not ours."""

    def tenant_of(headers: Headers) -> str:
        if api_keys.open:
            hosts.insist(headers)
        return api_keys.tenant(_authorization(headers))

    return tenant_of


def _authorization(headers: Headers) -> str | None:
    """The key as clients of OpenAI's API send it, or, without that header, as those of Anthropic's do."""
    given, key = headers.get("authorization"), headers.get("x-api-key")
    return given if given is not None or key is None else f"Bearer {key}"
