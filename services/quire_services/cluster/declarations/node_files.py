"""What a node keeps of the declarations, for a life in which the store is away: records, keys, what it was given.

    declarations.json    all records that were read, tombstones too
    keys.toml            the gateway's file of keys
    published.json       which version of each published prompt the node was given
    joined               all that is declared was in force once in this life, prompts computed

The gateway begins with the file of keys, which is there before it (``first_look``): a node never answers 401 to a key
that is declared because it is new, and it is never open.
"""

from __future__ import annotations

import json
from pathlib import Path

from quire_services.config.declared_names import GIVEN_FILE, JOINED_FILE, KEYS_FILE, RECORDS_FILE
from quire_services.config.input_files import write_private
from quire_services.config.written_keys import keys_header, write_keys

from .records import KEY, TENANT, DeclarationStore, Records, StoreAway, StoreError, live_values, newer
from .stores.file_store import read_records, write_records


class NodeFiles:
    """They, in a directory of the node's own, which is made if it is not there. Raises StoreError."""

    def __init__(self, directory: Path) -> None:
        self._records, self._given = directory / RECORDS_FILE, directory / GIVEN_FILE
        self._keys, self._joined = directory / KEYS_FILE, directory / JOINED_FILE
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot keep declarations in {directory}: {error.strerror}") from None

    def records(self) -> Records:
        """Those of an earlier life. Raises StoreError for a file that cannot be used: it may hold a key's end."""
        try:
            return read_records(self._records)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._records}: cannot be read: {error}; repair it or move it away") from None

    def keep(self, records: Records) -> None:
        """Replace them. Raises OSError."""
        write_records(self._records, records)

    def given(self) -> dict[str, int]:
        """Versions of published prompts; none from a file that cannot be used, and they are given once more."""
        try:
            found = json.loads(self._given.read_text())
            return {str(name): int(version) for name, version in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def keep_given(self, given: dict[str, int]) -> None:
        """Replace them. Raises OSError."""
        write_private(self._given, json.dumps(given))

    def keep_joined(self) -> None:
        """Note that the node has joined. Raises OSError."""
        self._joined.touch(mode=0o600)

    def forget_joined(self) -> None:
        """Begin a life in which it has not. Raises OSError."""
        self._joined.unlink(missing_ok=True)

    def begin_keys(self, records: Records) -> None:
        """Write the file of keys for a gateway that will start, unless it has them. Raises OSError or ValueError."""
        version = keys_version(records)
        if not self._keys.exists() or keys_header(self._keys)[0] < version:
            write_keys(self._keys, version, declared_keys(records))


def first_look(store: DeclarationStore, files: NodeFiles) -> int:
    """What a node must know before its gateway starts: what the store says now, or what it said before; the newest
    version. Raises StoreAway if neither is known, StoreError for files that cannot be used."""
    kept = files.records()
    try:
        found = newer(kept, store.read())
    except StoreAway:
        if not kept:
            raise
        found = {}
    records = {**kept, **found}
    try:
        files.forget_joined()
        files.keep(records)
        files.begin_keys(records)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot keep declarations: {error}") from None
    return max((record.version for record in records.values()), default=0)


def declared_keys(records: Records) -> dict[str, str]:
    """Tenants by the digests of their keys."""
    return {digest: str(value["tenant"]) for digest, value in live_values(records, KEY).items()}


def keys_version(records: Records) -> int:
    """The version of the keys as a whole, 0 if none was ever declared."""
    return max((r.version for r in records.values() if r.kind in (KEY, TENANT)), default=0)
