"""The directory of entries: who writes one, who waits for it, and which are removed.

    NAME.weights    an entry, whole; whoever maps it holds a shared lock on it
    NAME.draft      an entry that is being written, locked by its writer

An entry comes to be under its draft's name and is renamed when it is whole and on disk. Whoever wants it meanwhile
waits until the draft's lock is free; locks end with their process, so after a ``kill -9`` the next one has the draft
and begins it anew. Nothing is removed that is mapped: what removes takes the lock first.

All of it belongs to one user and is open to it alone; in a directory where others may write nothing is read or written.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from .entry import Entry, EntryDamaged, entry_size, write_entry
from .room import DRAFT, ENTRY, free_bytes, is_file, obstacle, remove_unlocked, unused_entries

LEAST_BYTES = 16 << 20  # of weights: less is not worth a file
KEPT_UNUSED = 2  # entries that no process maps, those used last, beside the one that is written
_POLL_S = 0.02

log = structlog.get_logger()


class Unshared(Exception):
    """Nothing can be shared here; the message says why, and nothing is wrong but that."""


class Unwanted(Unshared):
    """Nothing is to be shared here, as somebody said or as it should be."""


class EntryDraft:
    """The right to make one entry: write, look at what was written, publish; until it is dropped.

    Attributes:
        file: where it will be.
    """

    def __init__(self, directory: WeightsDirectory, name: str, fd: int) -> None:
        self._directory, self._name, self._fd = directory, name, fd
        self._published = False
        self.file = directory.file(name)

    def write(self, content: Any, sizes: Sequence[int], pieces: Iterable[memoryview]) -> Entry:
        """Write the entry (``write_entry``) anew and map it. Raises OSError, Unshared, EntryDamaged."""
        os.ftruncate(self._fd, 0)
        self._directory.make_room(entry_size(self._name, content, sizes), self._name)
        write_entry(self._fd, self._name, content, sizes, pieces)
        return _mapped(os.dup(self._fd), self._name)  # of the same lock

    def publish(self) -> None:
        """Let others map it. Raises OSError."""
        self._directory.rename(self._name)
        self._published = True
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def drop(self) -> None:
        """Give up the right, and what was written, unless it was published. Once."""
        if not self._published:
            self._directory.remove(self._name, DRAFT)
        os.close(self._fd)


class WeightsDirectory:
    """One directory, in which there is room for an entry of ``size`` bytes. Raises Unshared if that cannot be had."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        with suppress(OSError):  # the obstacle is named below
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if why := obstacle(path, size):
            raise Unshared(why)

    def find(self, name: str) -> Entry | None:
        """The entry, mapped and in use from now on; None if there is none that is whole."""
        while True:
            try:
                fd = os.open(self.file(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                return None
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if is_file(fd, self.file(name)):
                    return self._entry(name, fd)
            except BlockingIOError:  # it is just being removed, or was looked at
                time.sleep(_POLL_S)
            except (EntryDamaged, OSError, ValueError, LookupError, TypeError) as error:
                os.close(fd)
                log.warning("shared_weights_damaged", file=str(self.file(name)), reason=str(error))
                return None
            os.close(fd)

    def _entry(self, name: str, fd: int) -> Entry:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise EntryDamaged("it is another user's, or open to others")
        entry = Entry(fd, name)
        with suppress(OSError):
            os.utime(fd)  # what was used last is kept longest
        return entry

    def claim(self, name: str, wait_s: float) -> Entry | EntryDraft:
        """The entry, or the right to write it, waiting for whoever has that. Raises Unshared after ``wait_s``."""
        if entry := self.find(name):
            return entry
        until = time.monotonic() + wait_s
        while (fd := self._lock_draft(name)) is None:
            if time.monotonic() >= until:
                raise Unshared(f"another process has been writing {self.file(name, DRAFT)} for {wait_s:g} s")
            time.sleep(_POLL_S)
        if entry := self.find(name):  # published since the look
            self.remove(name, DRAFT)
            os.close(fd)
            return entry
        return EntryDraft(self, name, fd)

    def _lock_draft(self, name: str) -> int | None:
        """The draft, locked; None if another process has it. Raises Unshared."""
        file, fd = self.file(name, DRAFT), -1
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_file(fd, file):
                return fd
        except BlockingIOError:
            pass
        except OSError as error:  # no room for its name, or a file system without locks
            _close(fd)
            raise Unshared(f"{file}: {error.strerror}") from None
        _close(fd)
        return None

    def make_room(self, size: int, name: str) -> None:
        """Remove what is kept too long, and more if there is no room for ``size`` bytes. Raises Unshared if there is
        none then."""
        for file in self.path.glob(f"*{DRAFT}"):
            if file != self.file(name, DRAFT):
                remove_unlocked(file)
        unused = [file for file in self.unused() if file != self.file(name)]
        for file in unused[KEPT_UNUSED:]:
            remove_unlocked(file)
        for file in reversed(unused[:KEPT_UNUSED]):
            if size > free_bytes(self.path):
                remove_unlocked(file)
        if size > (free := free_bytes(self.path)):
            raise Unshared(f"{self.path} has no room for {size:,} bytes: {max(0, free):,} may be taken")

    def unused(self) -> list[Path]:
        """Entries that no process maps, the one used last first."""
        return unused_entries(self.path)

    def rename(self, name: str) -> None:
        """Give a whole draft the name of the entry, for good."""
        os.rename(self.file(name, DRAFT), self.file(name))
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, name: str, kind: str = ENTRY) -> None:
        """Remove what has this name; whoever maps it keeps it."""
        with suppress(OSError):
            self.file(name, kind).unlink()

    def file(self, name: str, kind: str = ENTRY) -> Path:
        """Where the entry of this name lies, or a file of another kind."""
        return self.path / f"{name}{kind}"


def _mapped(fd: int, name: str) -> Entry:
    try:
        return Entry(fd, name)
    except BaseException:
        os.close(fd)
        raise


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
