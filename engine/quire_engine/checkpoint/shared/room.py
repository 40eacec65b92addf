"""What stands in the way of an entry: whose the directory is, what in it is in use, and how much room there is.

A file is in use while a process holds a lock on it: whoever maps an entry, whoever writes a draft. Looking at it takes
the lock for a moment, so others may find it busy without anybody's using it, and have to look again.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

SPARE = 1 << 30  # bytes that are left free on the file system, or a twentieth of it if that is less
ENTRY, DRAFT = ".weights", ".draft"


def is_begun(directory: Path, name: str) -> bool:
    """Whether the entry of this name is there, or its draft, and has the room that it takes; not if none may look."""
    return any(os.path.exists(directory / f"{name}{kind}") for kind in (ENTRY, DRAFT))


def obstacle(path: Path, size: int = 0) -> str:
    """Why an entry of ``size`` bytes cannot be kept in a directory, which is not made for that; "" if it can."""
    try:
        place = next(place for place in (path, *path.parents) if place.exists())
        found = place.stat()
        if place == path and (found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022):
            return f"{path} belongs to another user, or others may write there"
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
            return f"{place} cannot be written"
        removable = sum(found.st_size for kind in (ENTRY, DRAFT) for _, found in _unlocked(path, kind))
        if size > (room := free_bytes(place) + removable):
            return f"{path} has no room for {size:,} bytes: {max(0, room):,} may be taken"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def free_bytes(place: Path) -> int:
    """What may be taken of the file system that ``place`` is on."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize - min(SPARE, found.f_blocks * found.f_frsize // 20)


def unused_entries(directory: Path) -> list[Path]:
    """Entries that no process maps, the one used last first."""
    found = sorted(_unlocked(directory, ENTRY), key=lambda one: one[1].st_mtime_ns, reverse=True)
    return [file for file, _ in found]


def _unlocked(directory: Path, kind: str) -> list[tuple[Path, os.stat_result]]:
    """Files on which no process holds a lock. Others may remove them meanwhile."""
    found = []
    for file in directory.glob(f"*{kind}"):
        with suppress(FileNotFoundError):
            if not _locked(file, remove=False):
                found.append((file, file.lstat()))
    return found


def is_file(fd: int, file: Path) -> bool:
    """Whether ``fd`` is the file that has this name now."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), file.lstat())
    return False


def _locked(file: Path, remove: bool) -> bool:
    """Whether a process holds a lock on ``file``; if none does, ``remove`` it."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove and is_file(fd, file):
            file.unlink()
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def remove_unlocked(file: Path) -> None:
    """Remove ``file``, unless a process holds a lock on it."""
    _locked(file, remove=True)
