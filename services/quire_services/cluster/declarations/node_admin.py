"""A node's own admin API, as a follower asks it: one answer a call, and failures in one line."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Any

from quire_services.config.input_files import one_line
from quire_services.gateway.admin.admin_request import AdminRequestError, admin_request

NODE_TIMEOUT_S = 2.0


class NodeError(AdminRequestError):
    """As the node's gateway, with a message that is one line whatever it said."""

    def __init__(self, message: str, status: int = 0, code: str = "", *, gone: bool = False) -> None:
        super().__init__(one_line(message), status, code, gone=gone)


class NodeAdmin:
    """The admin API of one node.

    Args:
        url: of the admin port, without ``/admin``.
        token_file: read at each call, because a gateway may make a new one with each life.
    """

    def __init__(self, url: str, token_file: Path) -> None:
        self.url, self._token_file = url.rstrip("/"), token_file

    def call(self, method: str, *path: str, body: Any = None, timeout_s: float = NODE_TIMEOUT_S) -> Any:
        """The answer's JSON. Raises NodeError."""
        place = "/".join(urllib.parse.quote(part, safe="") for part in ("admin", *path))
        url, where = f"{self.url}/{place}", f"at {self.url}"
        try:
            return admin_request(url, self._token_file, method, body, where=where, timeout_s=timeout_s)
        except AdminRequestError as error:
            raise NodeError(str(error), error.status, error.code, gone=error.gone) from None

    def rows(self, *path: str) -> list[dict[str, Any]]:
        """The rows of a list. Raises NodeError."""
        answer = self.call("GET", *path)
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
            raise NodeError(f"{self.url}: no list at {'/'.join(path)}")
        rows: list[dict[str, Any]] = answer["data"]
        return rows
