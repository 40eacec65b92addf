"""Refusal: the one exception that becomes an error reply. Raised by checks and handlers, caught by ``dispatch``."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        code: a code of PROTOCOL.md.
        detail: further fields of the error body.
    """

    def __init__(self, code: str, message: str, detail: dict[str, object] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail or {}
