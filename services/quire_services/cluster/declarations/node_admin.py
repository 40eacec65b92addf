"""A node's own admin API, as a follower asks it: one answer a call, and failures in one line."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from quire_services.config.input_files import one_line, read_bytes

NODE_TIMEOUT_S = 2.0
_MAX_TOKEN_BYTES = 4096


class NodeError(Exception):
    """The node refuses (``status``, ``code``), or does not answer (``status`` 0); one line says why.

    Attributes:
        gone: nothing listens there, so the node's process has ended.
    """

    def __init__(self, message: str, status: int = 0, code: str = "", *, gone: bool = False) -> None:
        super().__init__(one_line(message))
        self.status, self.code, self.gone = status, code, gone


class NodeAdmin:
    """The admin API of one node.

    Args:
        url: of the admin port, without ``/admin``.
        token_file: read at each call, because a gateway may make a new one with each life.
    """

    def __init__(self, url: str, token_file: Path) -> None:
        self.url, self._token_file = url.rstrip("/"), token_file
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, *path: str, body: Any = None, timeout_s: float = NODE_TIMEOUT_S) -> Any:
        """The answer's JSON. Raises NodeError."""
        place = "/".join(urllib.parse.quote(part, safe="") for part in ("admin", *path))
        try:
            token = read_bytes(self._token_file, _MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise NodeError(f"admin token {self._token_file}: {getattr(error, 'strerror', None) or error}") from None
        request = urllib.request.Request(
            f"{self.url}/{place}",
            None if body is None else json.dumps(body).encode(),
            {"authorization": f"Bearer {token}", "content-type": "application/json"},
            method=method,
        )
        try:
            with self._http.open(request, timeout=timeout_s) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (OSError, ValueError) as error:
            gone = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
            raise NodeError(f"no gateway answers at {self.url}: {error}", gone=gone) from None

    def rows(self, *path: str) -> list[dict[str, Any]]:
        """The rows of a list. Raises NodeError."""
        answer = self.call("GET", *path)
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
            raise NodeError(f"{self.url}: no list at {'/'.join(path)}")
        rows: list[dict[str, Any]] = answer["data"]
        return rows


def _refusal(error: urllib.error.HTTPError) -> NodeError:
    try:
        said = json.load(error)["error"]
        return NodeError(str(said["message"]), error.code, str(said["code"] or ""))
    except (ValueError, LookupError, TypeError, OSError):
        return NodeError(f"the admin API answered {error.code}", error.code)
