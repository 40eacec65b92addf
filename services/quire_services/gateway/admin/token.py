"""The token of the admin API: one line in a file that only its owner can read.

Without a file of the operator's own the gateway makes one in the run directory, which is closed to others anyway; a
gateway that is started again takes the same one. Compared in constant time, as a digest, and never logged.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from quire_services.config.input_files import MAX_TOKEN_BYTES, read_bytes, write_private
from quire_services.config.key_digests import key_digest
from quire_services.gateway.api_keys import bearer_digest
from quire_services.gateway.http.errors import bad_key

TOKEN_FILE = "admin.token"
MIN_TOKEN_CHARS = 16
OPERATOR = "(operator)"


class TokenError(Exception):
    """The token's file cannot be used; one line says why."""


class AdminToken:
    """Access to the admin API.

    Args:
        run_dir: where a token is made if ``named`` is empty.
        named: the operator's own file.
    """

    def __init__(self, run_dir: Path, named: str) -> None:
        self.file = Path(named) if named else run_dir / TOKEN_FILE
        try:
            if not named and not self.file.exists():
                write_token(self.file, new_token())
            self._digest = key_digest(_read(self.file))
        except (OSError, ValueError) as error:
            raise TokenError(f"admin token {str(self.file)!r}: {getattr(error, 'strerror', None) or error}") from None

    def operator(self, headers: Mapping[str, str]) -> str:
        """What the log calls the caller; raises ApiError 401 without the token."""
        if not hmac.compare_digest(bearer_digest(headers.get("authorization")), self._digest):
            raise bad_key()
        return OPERATOR


def new_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(32)


def write_token(file: Path, word: str) -> None:
    """Make the file, whole or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(file, word + "\n")


def _read(file: Path) -> str:
    info = file.stat()
    if info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise ValueError("must be readable by its owner only (chmod 600)")
    token = read_bytes(file, MAX_TOKEN_BYTES).decode("ascii", errors="replace").strip()
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"must hold one line of {MIN_TOKEN_CHARS} to {MAX_TOKEN_BYTES} letters, digits or marks")
    return token
