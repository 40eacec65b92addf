"""A file of keys as the stack itself writes it: digests by tenant, under a version.

Without any key it is closed: it then holds the digest of a key that was never said, because a gateway without any would
be open.
"""

from __future__ import annotations

import json
import secrets
import tomllib
from pathlib import Path

from .input_files import read_bytes, write_private
from .key_digests import DIGEST_PREFIX, key_digest
from .loader import MAX_CONFIG_BYTES

CLOSED = "closed"  # whose the key is that was never said
WRITTEN_LINE = "# Written by the admin API (PUT /admin/keys); what is changed here by hand is overwritten.\n"


def write_keys(file: Path, version: int, pairs: dict[str, str]) -> None:
    """Write a file of keys, tenants by digest; without any, one that is closed to all. Raises OSError."""
    by_tenant: dict[str, list[str]] = {}
    for digest, tenant in sorted(pairs.items()):
        by_tenant.setdefault(tenant, []).append(DIGEST_PREFIX + digest)
    header = f"{WRITTEN_LINE}version = {version}\n"
    if not pairs:
        header += "closed = true # the key below was never said\n"
        by_tenant[CLOSED] = [DIGEST_PREFIX + key_digest(secrets.token_urlsafe(32)).hex()]
    rows = [
        f"\n[[tenants]]\nname = {json.dumps(name)}\nkeys = {json.dumps(keys)}\n" for name, keys in by_tenant.items()
    ]
    write_private(file, header + "".join(rows))


def keys_header(file: Path) -> tuple[int, bool]:
    """The version a file says, 0 for an operator's own or none, and whether it is closed. Raises OSError, or
    ValueError for a file that is not TOML."""
    try:
        document = tomllib.loads(read_bytes(file, MAX_CONFIG_BYTES).decode())
    except FileNotFoundError:
        return 0, False
    version = document.get("version", 0)
    return (version if type(version) is int and version >= 0 else 0), document.get("closed") is True
