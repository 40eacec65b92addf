"""Questions to the admin API of a running gateway, for what only the gateway knows."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from quire_services.config.input_files import read_bytes
from quire_services.config.settings import Config
from quire_services.gateway.admin.token import MAX_TOKEN_BYTES, TOKEN_FILE
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
    try:
        token = read_bytes(file, MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise AdminCallError(f"admin token {file}: {getattr(error, 'strerror', None) or error}") from None
    request = urllib.request.Request(
        f"http://{ADMIN_HOST}:{port}{path}",
        None if body is None else json.dumps(body).encode(),
        {"authorization": f"Bearer {token}", "content-type": "application/json"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout_s) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        raise AdminCallError(_reason(error)) from None
    except (OSError, ValueError) as error:
        raise AdminCallError(f"no gateway answers on {ADMIN_HOST}:{port}: {error}") from None


def _reason(error: urllib.error.HTTPError) -> str:
    """What the API says of an error."""
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, LookupError, TypeError, OSError):
        return f"the admin API answered {error.code}"
