"""Records: what is declared, each under a version, deleted by tombstones; and what a store of them must do.

Invariants: a version is the store's clock in microseconds, or one more than the last if that is more, so it rises even
in a store that was restored from an older copy or emptied; the same number tells how old a record is. What a store does
not say is not deleted: only a tombstone (a record without a value) deletes, and it stays, so a node that was away for a
month still learns of it. A write names the versions that it has seen, and none of it happens if another writer was
faster. There is no other order and no consensus: the store is one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

TENANT, KEY, QUOTA, MEMBER, PUBLICATION = "tenant", "key", "quota", "member", "publication"


class StoreError(Exception):
    """The store cannot be used as it is named, or answers nonsense; one line says why."""


class StoreAway(StoreError):
    """It does not answer now."""


class WriteConflict(Exception):
    """Another writer changed a record after it was read; nothing was written."""

    def __init__(self, key: str, expected: int, found: int) -> None:
        super().__init__(
            f"{key} was changed by another writer (version {found}, not {expected}): read it and try again"
        )
        self.key = key


@dataclass(frozen=True, slots=True)
class Record:
    """One declared thing; ``value`` None is its tombstone."""

    kind: str
    name: str
    version: int
    value: dict[str, Any] | None

    @property
    def key(self) -> str:
        """Its name in a store."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Change:
    """A write of one record. ``expected``: the version that it replaces, 0 if there is none."""

    kind: str
    name: str
    value: dict[str, Any] | None
    expected: int

    @property
    def key(self) -> str:
        """Its name in a store."""
        return f"{self.kind}/{self.name}"


Records = Mapping[str, Record]


class DeclarationStore(Protocol):
    """A table of records. Every method may raise StoreError."""

    def revision(self) -> int:
        """The version of the last write, 0 before the first."""

    def read(self) -> Records:
        """All records by key, tombstones too."""

    def write(self, changes: Sequence[Change]) -> int:
        """Write all of it or nothing; the version that they have now. Raises WriteConflict."""

    def table(self, name: str) -> DeclarationStore:
        """Another table of the same store."""

    def close(self) -> None:
        """Give connections up."""


def newer(known: Records, found: Records) -> dict[str, Record]:
    """What ``found`` knows better: records that ``known`` lacks or has in an older version."""
    return {key: record for key, record in found.items() if key not in known or known[key].version < record.version}


def by_kind(records: Records, kind: str) -> dict[str, Record]:
    """Records of a kind by name."""
    return {record.name: record for record in records.values() if record.kind == kind}


def live_values(records: Records, kind: str) -> dict[str, dict[str, Any]]:
    """What is declared of a kind, by name. A tenant that is not declared has no key, quota or membership."""
    tenants = {record.name for record in records.values() if record.kind == TENANT and record.value is not None}
    values = {name: record.value for name, record in by_kind(records, kind).items() if record.value is not None}
    if kind in (TENANT, PUBLICATION):
        return values
    return {name: value for name, value in values.items() if value["tenant"] in tenants}


def key_of(text: str) -> tuple[str, str]:
    """Kind and name of a record's key."""
    kind, _, name = text.partition("/")
    return kind, name
