"""Questions to the admin API of a running gateway, for what only the gateway knows."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Any

from quire_services.config.settings import Config
from quire_services.gateway.admin.admin_request import AdminRequestError, admin_request
from quire_services.gateway.admin.token import TOKEN_FILE
from quire_services.process.port_check import ADMIN_HOST

_TIMEOUT_S = 60.0


class AdminCallError(Exception):
    """The gateway does not answer, or refuses; one line says why."""


def path_part(name: str) -> str:
    """A name as a part of a path."""
    return urllib.parse.quote(name, safe="")


def admin_answer(
    config: Config, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = _TIMEOUT_S
) -> dict[str, Any]:
    """What the admin API answers to a POST of this body, or to a GET. Raises AdminCallError."""
    port = config.gateway.admin_port
    if not port:
        raise AdminCallError("only the gateway knows, which is asked over its admin API: give --admin-port")
    named = config.gateway.admin_token_file
    file = Path(named) if named else config.run_dir / TOKEN_FILE
    url, where = f"http://{ADMIN_HOST}:{port}{path}", f"on {ADMIN_HOST}:{port}"
    method = "GET" if body is None else "POST"
    try:
        found: dict[str, Any] = admin_request(url, file, method, body, where=where, timeout_s=timeout_s)
    except AdminRequestError as error:
        raise AdminCallError(str(error)) from None
    return found
