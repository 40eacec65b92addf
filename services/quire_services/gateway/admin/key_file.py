"""API keys over the admin API: the gateway's file of keys, replaced as a whole by digests, under a version.

For what keeps the keys of many gateways alike, which knows digests and no key. The file is the truth, as it is for an
operator with an editor: a gateway that starts again reads the same keys. It holds in the answer's moment. Whoever comes
with an older version than the file's is refused. A set without keys closes the gateway: the file then holds the digest
of a key that was never said, because a gateway without any would be open.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from quire_services.config.key_digests import keys_fingerprint, stored_digest
from quire_services.config.loader import IDENTIFIER, ConfigError, load_tenants
from quire_services.config.written_keys import keys_header, write_keys
from quire_services.gateway.api_keys import ApiKeys
from quire_services.gateway.http.errors import ApiError, invalid, unavailable

MAX_KEYS = 10_000  # a file of keys is read whole, and each key is compared with what a client sends


class KeyBody(BaseModel):
    """A key: whose it is, and its SHA-256 in hex."""

    model_config = ConfigDict(strict=True, extra="forbid")
    tenant: Annotated[str, Field(pattern=f"^{IDENTIFIER.pattern}$")]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class KeysBody(BaseModel):
    """``PUT /admin/keys``: all keys there are from now on."""

    model_config = ConfigDict(strict=True, extra="forbid")
    version: Annotated[int, Field(ge=0, lt=1 << 63)]
    keys: Annotated[list[KeyBody], Field(max_length=MAX_KEYS)]


class KeyFile:
    """The gateway's file of keys.

    Args:
        api_keys: the keys in force, which read it.
        named: ``gateway.keys_file``, empty if keys come from the configuration, which is not ours to write.
    """

    def __init__(self, api_keys: ApiKeys, named: str) -> None:
        self._api_keys = api_keys
        self._file = Path(named).absolute() if named else None
        self._lock = Lock()  # of two writers, the one with the older version must see the other's

    def row(self) -> dict[str, Any]:
        """What the file holds, keys neither in clear nor as digests. Raises ApiError."""
        file = self._own()
        try:
            version, closed = keys_header(file)
            tenants = () if closed else load_tenants(file)
            return _row(version, {stored_digest(key).hex(): tenant.name for tenant in tenants for key in tenant.keys})
        except (ConfigError, OSError, ValueError) as error:
            raise unavailable(str(error)) from None

    def replace(self, version: int, pairs: dict[str, str]) -> dict[str, Any]:
        """Put these keys in force, tenants by digest; the same again changes nothing. Raises ApiError."""
        file = self._own()
        with self._lock:
            try:
                have, _ = keys_header(file)
                if version < have:
                    reason = f"keys of version {have} are in force, these have version {version}"
                    raise ApiError(409, reason, type="invalid_request_error", code="older_version")
                if version != have or keys_fingerprint(pairs) != self.row()["fingerprint"]:
                    write_keys(file, version, pairs)
            except (OSError, ValueError) as error:
                reason = f"cannot keep keys in {file}: {getattr(error, 'strerror', None) or error}"
                raise unavailable(reason) from None
            self._api_keys.reload()
        return _row(version, pairs)

    def _own(self) -> Path:
        if self._file is None:
            reason = "keys come from the configuration: give the gateway a --keys-file of its own"
            raise ApiError(409, reason, type="invalid_request_error", code="no_keys_file")
        return self._file


def serve_keys(app: FastAPI, keys: KeyFile) -> None:
    """Add the paths about keys to the admin API."""

    @app.get("/admin/keys")
    def kept() -> dict[str, Any]:
        return keys.row()

    @app.put("/admin/keys")
    def replace(body: KeysBody) -> dict[str, Any]:
        pairs = {key.digest: key.tenant for key in body.keys}
        if len(pairs) < len(body.keys):
            raise invalid("a key is there twice", "keys")
        if any(not digest.strip("0") for digest in pairs):
            raise invalid("no key has the digest of zeros", "keys")
        return keys.replace(body.version, pairs)


def _row(version: int, pairs: dict[str, str]) -> dict[str, Any]:
    return {"object": "keys", "version": version, "keys": len(pairs), "fingerprint": keys_fingerprint(pairs)}
