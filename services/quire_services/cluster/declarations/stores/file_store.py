"""Records in a directory: a file for each table, replaced as a whole under one lock.

For nodes of one machine, or of several with a directory that all of them mount, if it knows flock and their clocks
agree: versions are the writers' clocks. The directory itself must be there, since a mount that is not would look like a
store in which nothing is declared.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quire_services.cluster.declarations.records import Change, Record, Records, StoreAway, StoreError, WriteConflict
from quire_services.config.input_files import write_private


class FileStore:
    """A table in a cluster's folder of a directory; the folder is made if it is not there, for its owner alone."""

    def __init__(self, root: Path, cluster: str, name: str = "declared") -> None:
        self._root, self._cluster = root, cluster
        self._directory = root / cluster
        self._file = self._directory / f"{name}.json"

    def revision(self) -> int:
        """The version of the last write."""
        return max((record.version for record in self.read().values()), default=0)

    def read(self) -> Records:
        """All records by key."""
        if not self._root.is_dir():
            raise StoreAway(f"there is no directory {self._root}")
        try:
            return read_records(self._file)
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read {self._file}: {error}") from None

    def write(self, changes: Sequence[Change]) -> int:
        """All or nothing, under the directory's lock."""
        with self._locked():
            records = dict(self.read())
            for change in changes:
                found = records[change.key].version if change.key in records else 0
                if found != change.expected:
                    raise WriteConflict(change.key, change.expected, found)
            last = max((record.version for record in records.values()), default=0)
            version = max(last + 1, time.time_ns() // 1000)
            records |= {change.key: Record(change.kind, change.name, version, change.value) for change in changes}
            write_records(self._file, records)
        return version

    def table(self, name: str) -> FileStore:
        """Another file of the directory."""
        return FileStore(self._root, self._cluster, name)

    def close(self) -> None:
        """Nothing is open."""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(self._directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot write to {self._directory}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise StoreError(f"cannot write to {self._directory}: {error.strerror}") from None
        finally:
            os.close(lock)


def read_records(file: Path) -> Records:
    """Records of a file, none if it is not there. Raises OSError, or ValueError for one that holds no records."""
    try:
        rows = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    try:
        records = [Record(kind, name, int(version), value) for kind, name, version, value in rows]
    except TypeError as error:
        raise ValueError(f"no records: {error}") from None
    if not all(record.value is None or isinstance(record.value, dict) for record in records):
        raise ValueError("no records")
    return {record.key: record for record in records}


def write_records(file: Path, records: Records) -> None:
    """Replace a file by these. Raises OSError."""
    rows = [[record.kind, record.name, record.version, record.value] for record in records.values()]
    write_private(file, json.dumps(rows))
