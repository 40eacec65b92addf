"""API keys: which tenant a request belongs to.

Keys are kept as SHA-256 digests and compared in constant time with every key there is, so that neither the time nor
the order says how much of a guess was right. Without any key there is one tenant, ``default``, open to every client
that reaches the port - which is why the gateway then listens on the loopback only.

Keys are read again when the file changes, or when the admin API has written it. A file that cannot be used changes
nothing: the old keys stay and the log says why. That includes a file without keys, which may be one that is just being
written: a gateway that asked for keys never becomes open while it runs.

A file of keys that other users may read or change is used and warned about, once: a mounted secret may be meant so.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

import structlog

from quire_services.config.key_digests import key_digest, stored_digest
from quire_services.config.loader import ConfigError, load_tenants
from quire_services.config.settings import Tenant
from quire_services.gateway.http.errors import bad_key

DEFAULT_TENANT = "default"
KEY_FILE_POLL_S = 0.5
log = structlog.get_logger()


class ApiKeys:
    """The keys in force.

    Args:
        tenants: as configured; none means one open tenant.
        file: where they come from, for ``watch``.
    """

    def __init__(self, tenants: Sequence[Tenant], file: Path | None) -> None:
        self._file = file
        self._digests = _digests(tenants)
        self._warned = False
        self._warn()

    @property
    def open(self) -> bool:
        """No key is configured."""
        return not self._digests

    def tenant(self, authorization: str | None) -> str:
        """The tenant of an ``Authorization`` header; raises ApiError 401."""
        if not self._digests:
            return DEFAULT_TENANT
        given, found = bearer_digest(authorization), ""
        for digest, name in self._digests:  # never stops early
            if hmac.compare_digest(digest, given):
                found = name
        if not found:
            raise bad_key()
        return found

    async def watch(self) -> None:
        """Read the file again whenever it changes, until cancelled."""
        if self._file is None:
            return
        seen = None  # reads once more at the start: the file may have changed since it was loaded
        while True:
            await asyncio.sleep(KEY_FILE_POLL_S)
            stamp = _stamp(self._file)
            if stamp != seen:
                seen = stamp
                self.reload()

    def reload(self) -> None:
        """Read the file again now."""
        if self._file is not None:
            self._reload(self._file)

    def _reload(self, file: Path) -> None:
        try:
            tenants = load_tenants(file)
        except ConfigError as error:
            log.error("keys_kept", reason=str(error))
            return
        digests = _digests(tenants)
        if self._digests and not digests:
            log.error("keys_kept", reason=f"{file} has no keys; restart the gateway to open it to all")
        elif digests != self._digests:
            self._digests = digests
            log.info("keys_reloaded", tenants=len(tenants), keys=len(digests))
            self._warn()

    def _warn(self) -> None:
        if not self._digests or self._file is None or self._warned:
            return
        if others := _others_may(self._file):
            self._warned = True
            fix = f"chmod 600 {shlex.quote(str(self._file))}"
            log.warning("keys_not_private", reason=f"other users may {others} this file, which holds API keys: {fix}")


def bearer_digest(authorization: str | None) -> bytes:
    """Digest of the token of an ``Authorization`` header, to be compared; one of no token if it bears none."""
    scheme, _, token = (authorization or "").partition(" ")
    digest = key_digest(token.strip())
    return digest if scheme.lower() == "bearer" else bytes(len(digest))


def _digests(tenants: Sequence[Tenant]) -> list[tuple[bytes, str]]:
    return [(stored_digest(key), tenant.name) for tenant in tenants for key in tenant.keys]


def _others_may(file: Path) -> str:
    """What users other than the owner may do with a file: read, change, or neither ("")."""
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return ""
    if not stat.S_ISREG(mode):  # a pipe has no second reader
        return ""
    return "change" if mode & 0o022 else "read" if mode & 0o044 else ""


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
