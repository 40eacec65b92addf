"""The store that an address names: ``valkey://HOST:PORT/DB`` and its kin, or ``file:///DIRECTORY``.

``?cluster=NAME`` behind it is for clusters that share a store. ``@FILE`` reads the address from a file; one with a
password must be there, because a command line is for everyone of the machine to read.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from quire_services.cluster.declarations.records import DeclarationStore, StoreError
from quire_services.config.input_files import read_bytes
from quire_services.config.loader import IDENTIFIER

from .file_store import FileStore
from .valkey_store import ValkeyStore

DEFAULT_CLUSTER = "default"
MAX_ADDRESS_BYTES = 4096
_SERVERS = ("valkey", "valkeys", "redis", "rediss", "unix")


def open_store(address: str) -> DeclarationStore:
    """The store; nothing is asked of it yet. Raises StoreError."""
    in_file = address.startswith("@")
    if in_file:
        try:
            address = read_bytes(Path(address[1:]), MAX_ADDRESS_BYTES).decode().strip()
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read the store's address: {getattr(error, 'strerror', None) or error}") from None
    try:
        parts = urllib.parse.urlsplit(address)
        options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    except ValueError as error:
        raise StoreError(f"the store's address is none: {error}") from None
    cluster = options.pop("cluster", DEFAULT_CLUSTER)
    if not IDENTIFIER.fullmatch(cluster):
        raise StoreError("the cluster in the store's address must be 1 to 64 letters, digits or ._-")
    if not in_file and (parts.password or "password" in options):
        raise StoreError("the store's address has a password: write it into a file of yours and name that as @FILE")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/") or options:
            raise StoreError("a directory's address is file:///DIRECTORY, and ?cluster=NAME perhaps")
        return FileStore(Path(urllib.parse.unquote(parts.path)), cluster)
    if parts.scheme in _SERVERS:
        rest = parts._replace(query=urllib.parse.urlencode(options))
        return ValkeyStore(urllib.parse.urlunsplit(rest), cluster)
    raise StoreError(f"the store's address begins with {'://, '.join(_SERVERS)}:// or file:///")
