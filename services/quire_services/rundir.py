"""The run directory of a stack: made 0700, locked by the supervisor, left empty.

Invariants: one live stack a directory, held by an flock, which the kernel gives up with the process that holds it;
so a directory whose lock is free belongs to a dead stack, whatever its files say. Only names of ours are ever
removed. ``arena.json`` and the kvstore's state of a dead stack stay for the next kvstore, which unlinks the old arena
by the first; a clean stop removes them too, and with them the arena of a kvstore that had to be killed. State that is
to outlive a clean stop is kept in a directory of its own (``--state-dir``).
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from quire_kvstore.arena import ROSTER, ArenaError, Roster
from quire_kvstore.mappers import ROSTER as MAPPERS

LOCK = "serve.lock"
SOCKETS = ("kvstore.sock", "attach.sock", "gateway.sock")
MADE_ANEW = (*SOCKETS, "prepared.json", "admin.token")
KVSTORE_OWN = (ROSTER, MAPPERS, "root.key", "groups.json", "quotas.json")


class RunDirError(Exception):
    """The run directory cannot be used; one line says why."""


class RunDir:
    """A locked run directory."""

    def __init__(self, path: Path) -> None:
        if len(os.fsencode(path / "kvstore.sock")) > 100:  # sun_path holds 108 bytes
            raise RunDirError(f"the run directory {path} is too long for a socket's path; choose one with --run-dir")
        self.path = path
        self._made = not path.exists()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirError(f"cannot make the run directory {path}: {error.strerror}") from None
        self._refuse_foreign()
        self._fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise RunDirError(f"another stack (pid {owner or 'unknown'}) runs in {path}") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        self.stale = [name for name in MADE_ANEW if self._remove(name)]

    def _refuse_foreign(self) -> None:
        status = self.path.stat()
        if status.st_uid != os.getuid():
            raise RunDirError(f"the run directory {self.path} belongs to another user")
        if status.st_mode & 0o077:
            if any(self.path.iterdir()):
                raise RunDirError(f"the run directory {self.path} is open to other users; make it 0700")
            self.path.chmod(0o700)

    def _remove(self, name: str) -> bool:
        try:
            (self.path / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def close(self) -> list[str]:
        """Remove everything of ours, and the directory if it is then empty; returns what else lies there."""
        if (self.path / ROSTER).exists():  # the kvstore did not get to it
            with suppress(ArenaError):
                Roster(self.path).close()
        for name in (*MADE_ANEW, *KVSTORE_OWN, LOCK):
            self._remove(name)
        shutil.rmtree(self.path / "publications", ignore_errors=True)
        others = sorted(entry.name for entry in self.path.iterdir())
        if not others:
            with suppress(OSError):
                self.path.rmdir()
        os.close(self._fd)
        return others
