"""StateDir: declarations that survive a restart, each a small JSON file that is replaced whole.

What people declared (tenants, groups, publications) is kept; what was computed is not, because the pool starts empty.
A document is written beside its place, flushed to the disk, and renamed: a reader, or a kvstore killed at any
instant, finds the old document or the new one and never half of either. Everything is for its owner only (0700,
0600), for a published prompt may itself be a secret.

A document that cannot be used stops the start with its path and the reason. It is never skipped: a limit, or a
tenant's leaving of a group, that is silently forgotten is found only when it hurts.

Writing costs two flushes, some milliseconds on a slow disk. Only administration writes, on a thread of its own
(``declarations``).
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

DOCUMENT_VERSION = 1
SUFFIX = ".json"


class StateError(Exception):
    """A document cannot be read or written; the message says which, why, and what to do."""


class StateDir:
    """Documents by name in one directory; a name may have one folder, as in ``publications/agents``.

    Names are the caller's own and already checked: a document's name becomes a file's name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> dict[str, Any] | None:
        """A document's content, or None if there is none. Raises StateError."""
        file = self._file(name)
        try:
            info = file.stat()
            if not stat.S_ISREG(info.st_mode):  # a pipe would keep us waiting
                raise StateError(f"{file}: not a file; move it away")
            if info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
                raise StateError(f"{file}: must be readable by its owner only (chmod 600)")
            content = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as exc:
            raise StateError(f"{file}: cannot be read: {exc}; repair it or move it away") from None
        if not isinstance(content, dict) or content.pop("version", None) != DOCUMENT_VERSION:
            raise StateError(f"{file}: not a document of version {DOCUMENT_VERSION}; repair it or move it away")
        return content

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replace a document; it is on the disk when this returns. Raises StateError, and then nothing changed."""
        file = self._file(name)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(draft, json.dumps({"version": DOCUMENT_VERSION, **content}).encode())
            draft.replace(file)
            _flush(file.parent)
        except OSError as exc:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise StateError(f"{file}: cannot be written: {exc.strerror or exc}") from None

    def remove(self, name: str) -> None:
        """Remove a document if it is there. Raises StateError."""
        file = self._file(name)
        try:
            file.unlink()
            _flush(file.parent)
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise StateError(f"{file}: cannot be removed: {exc.strerror or exc}") from None

    def names(self, folder: str) -> list[str]:
        """Names of the documents in a folder, sorted; drafts of a process that died are not documents."""
        files = (self.path / folder).glob("*" + SUFFIX)
        return sorted(f"{folder}/{file.name.removesuffix(SUFFIX)}" for file in files if not file.name.startswith("."))

    def _file(self, name: str) -> Path:
        return self.path / (name + SUFFIX)


def _write(file: Path, data: bytes) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(fd)


def _flush(directory: Path) -> None:
    """Put renames and removals in a directory on the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
