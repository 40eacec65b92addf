"""Arena: the one memory region that holds all blocks of a pool.

The store never touches it: it hands out ids and a handle, engines map the memory. So an arena here is a name, a size
and a duty to remove what it made. Arenas on a GPU are in ``cuda_arena``, the choice between all in ``arena_choice``.

``ShmArena`` is POSIX shared memory: an unguessable name under /dev/shm, mode 0600. The space is checked before
(``host_space``); the pages are taken by ``reservation``, or else when an engine first writes them.

The *roster* is a file in the run directory that names the segment, and what the pool's size was measured from. It is
written before the segment exists and held locked while the kvstore lives: after a ``kill -9`` the next start finds the
name and removes the segment, and a second kvstore in the same directory is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any, Protocol

from quire_proto.wire.handles import Handle, ShmHandle

from .host_space import lacking

SHM_DIR = Path("/dev/shm")
LEFT_OVER_S = 10.0  # that an earlier life's engines have to unmap its pages
ROSTER_FILE = "arena.json"
_NAME = re.compile(r"quire-[0-9a-f]{32}")


class ArenaError(Exception):
    """The arena cannot be made; the message says why and what would help."""


class Arena(Protocol):
    """What the server needs of an arena; ``fd`` goes to each process with the hello, -1 for none."""

    @property
    def fd(self) -> int:
        """Descriptor of the memory, or -1."""
        ...

    def handle(self) -> Handle:
        """How other processes find the memory."""
        ...

    def close(self) -> None:
        """Remove the memory (existing mappings stay valid until they are unmapped). Safe to call twice."""
        ...


class Roster:
    """The locked file that names this kvstore's segment.

    Attributes:
        left_over: an earlier life had left a segment, which its engines may still map.
        size: what was measured for the pool's size (``pool_size``), by this life or the one before; empty if nothing.
    """

    size: dict[str, Any]

    def __init__(self, run_dir: Path) -> None:
        """Lock the roster and remove what an earlier life left. Raises ArenaError if another kvstore holds it."""
        self._path = run_dir / ROSTER_FILE
        while True:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._fd)
                raise ArenaError(f"{run_dir}: another kvstore runs in this directory") from None
            if os.fstat(self._fd).st_nlink:
                break
            os.close(self._fd)  # its owner removed it between our open and our lock
        self._remove_left_over()

    def write(self, name: str) -> None:
        """Name the segment that is about to be made. One write call: a kill leaves the old or the new text."""
        measured = {"size": self.size} if self.size else {}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"shm": name, "pid": os.getpid(), **measured}).encode(), 0)

    def keep(self, size: dict[str, Any]) -> None:
        """Keep what the pool's size was measured from, for the next life, before there is any segment."""
        self.size = size
        self.write("")

    def close(self) -> None:
        """Remove the file and let go of the lock."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def _remove_left_over(self) -> None:
        found = _content(self._fd)
        name, size = found.get("shm", ""), found.get("size")
        self.size = size if isinstance(size, dict) else {}
        # Only a name of our own making is removed, whatever the file says.
        self.left_over = bool(_NAME.fullmatch(name))
        if self.left_over:
            (SHM_DIR / name).unlink(missing_ok=True)


def is_roster(file: Path) -> bool:
    """Whether a file is what a kvstore wrote as its roster, or has not written to yet. Raises OSError."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.fstat(fd).st_size == 0 or bool(_content(fd))
    finally:
        os.close(fd)


def _content(fd: int) -> dict[str, Any]:
    """What a roster says; empty if it is none."""
    try:
        found = json.loads(os.pread(fd, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    ours = isinstance(found, dict) and found.keys() - {"size"} == {"shm", "pid"} and isinstance(found["shm"], str)
    return found if ours else {}


def check_capacity(size: int, *, reserve: bool) -> None:
    """Raise ArenaError if /dev/shm could not hold ``size`` bytes even if it were empty."""
    if why := lacking(SHM_DIR, size, memory=reserve, empty=True):
        raise ArenaError(why)


class ShmArena:
    """An arena of ``size`` bytes in POSIX shared memory; ``reserve``: all of its pages will be taken."""

    fd = -1

    def __init__(self, size: int, roster: Roster, *, reserve: bool = False) -> None:
        """Make it, zero-filled, its pages not taken yet. Raises ArenaError if there is no space for them."""
        until = time.monotonic() + (LEFT_OVER_S if roster.left_over else 0)
        while why := lacking(SHM_DIR, size, memory=reserve):
            if time.monotonic() >= until:
                raise ArenaError(why)
            time.sleep(0.02)
        self._name = f"quire-{secrets.token_hex(16)}"
        self._size = size
        roster.write(self._name)
        fd = os.open(SHM_DIR / self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
        except OSError as exc:
            self.close()
            raise ArenaError(f"{SHM_DIR}: {size:,} bytes: {exc.strerror}") from exc
        finally:
            os.close(fd)

    @property
    def file(self) -> Path:
        """Where it lies."""
        return SHM_DIR / self._name

    def handle(self) -> ShmHandle:
        """Name (as for ``shm_open``) and size."""
        return ShmHandle(name=f"/{self._name}", size=self._size)

    def close(self) -> None:
        """Unlink the segment."""
        self.file.unlink(missing_ok=True)
