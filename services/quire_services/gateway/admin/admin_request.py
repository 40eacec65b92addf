"""One request to a gateway's admin API, with the token that lies in a file: for commands, and for followers of a store.

The file is read at each request, because a gateway may make a new one with each life. No proxy is asked: the API is on
the loopback.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from quire_services.config.input_files import MAX_TOKEN_BYTES, read_bytes

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class AdminRequestError(Exception):
    """The gateway refuses (``status``, ``code``), or does not answer (``status`` 0); one line says why.

    Attributes:
        gone: nothing listens there, so the gateway's process has ended.
    """

    def __init__(self, message: str, status: int = 0, code: str = "", *, gone: bool = False) -> None:
        super().__init__(message)
        self.status, self.code, self.gone = status, code, gone


def admin_request(url: str, token_file: Path, method: str, body: Any, *, where: str, timeout_s: float) -> Any:
    """The JSON of the answer; ``where`` names the address in errors. Raises AdminRequestError."""
    try:
        token = read_bytes(token_file, MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise AdminRequestError(f"admin token {token_file}: {getattr(error, 'strerror', None) or error}") from None
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {"authorization": f"Bearer {token}", "content-type": "application/json"},
        method=method,
    )
    try:
        with _DIRECT.open(request, timeout=timeout_s) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise _refusal(error) from None
    except (OSError, ValueError) as error:
        gone = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
        raise AdminRequestError(f"no gateway answers {where}: {error}", gone=gone) from None


def _refusal(error: urllib.error.HTTPError) -> AdminRequestError:
    """What the API says of an error."""
    try:
        said = json.load(error)["error"]
        return AdminRequestError(str(said["message"]), error.code, str(said.get("code") or ""))
    except (ValueError, LookupError, TypeError, AttributeError, OSError):
        return AdminRequestError(f"the admin API answered {error.code}", error.code)
