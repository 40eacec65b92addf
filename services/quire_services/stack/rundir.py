"""The run directory of a stack: private, locked by the supervisor, and left as it was found.

What may be removed is known by what this stack made, never by a name. A marker file, which also carries the lock, says
that a directory is a stack's. Where there is none, a file under a name that we need is not ours: the start is
refused and nothing is touched. Where there is one, each name still has to hold what a stack puts there: a socket, a
document with our keys, the token whose digest the marker repeats. Anything else stays, and a line of output names it.

The lock is an flock, which the kernel gives up with the process that holds it: a marked directory whose lock is free
has no supervisor, and the next one takes it over, with the processes that have outlived theirs (``process_table``):
what a running process has made there is left to it. The kvstore's state is in a directory of its own inside, made
here and marked too, unless the configuration names another; that one is never touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from quire_kvstore.host.arena import ROSTER_FILE, ArenaError, Roster, is_roster
from quire_kvstore.host.device_mappers import MAPPERS_FILE, WEIGHTS_MAPPERS_FILE, is_mappers
from quire_proto.private_dir import NotPrivate, insist_on_private
from quire_services.config.prepared_file import PREPARED_FILE, is_prepared
from quire_services.config.process_table import PROCESSES_FILE, is_process_table, read_process_table
from quire_services.config.socket_names import GATEWAY_SOCKET, REPLAY_SOCKET, SOCKETS
from quire_services.gateway.admin import token as admin_token

from .state_tree import STATE, StateTree

MARKER_FILE = "serve.lock"
KVSTORE_FILES = (ROSTER_FILE, MAPPERS_FILE, WEIGHTS_MAPPERS_FILE)  # those of a dead stack are for the next kvstore
_DOCUMENTS: dict[str, Callable[[Path], bool]] = {
    PREPARED_FILE: is_prepared,
    ROSTER_FILE: is_roster,
    MAPPERS_FILE: is_mappers,
    WEIGHTS_MAPPERS_FILE: is_mappers,
    PROCESSES_FILE: is_process_table,
}
STACK_FILES = (*SOCKETS, *_DOCUMENTS, admin_token.TOKEN_FILE)
GATEWAY_FILES = (GATEWAY_SOCKET, admin_token.TOKEN_FILE)
_INHERITED = ("made", "state", "token", "instance")  # of the last stack's marker
MARK, MARK_BYTES = "quire serve", 4096
MAX_SUN_PATH = 107


class RunDirError(Exception):
    """The run directory cannot be used; one line says why."""


class RunDir:
    """A locked run directory.

    Args:
        path: where; made with mode 0700 if it is not there.
        own_state: the kvstore's state is kept here, and goes with the stack; None: if the last stack's was.

    Attributes:
        stale: what a dead stack had left, and what is removed now.
        table: the processes of this stack.
        found: those that run, and whose supervisor is dead.
        instance: a random word by which the gateway here is told from any other.
    """

    def __init__(self, path: Path, *, own_state: bool | None = True) -> None:
        if len(os.fsencode(path / REPLAY_SOCKET)) > MAX_SUN_PATH:
            raise RunDirError(f"the run directory {path} is too long for a socket's path; choose one with --run-dir")
        self.path = path
        self.stale: list[str] = []
        self._mark: dict[str, Any] = {"mark": MARK, "pid": os.getpid(), "state": "", "token": ""}
        self._mark |= {"instance": secrets.token_hex(8), "made": self._make()}
        self._fd, fresh = self._lock()
        try:
            self.table = read_process_table(path)
            self.found = {} if fresh else self.table.running()
            self._take_over(fresh)
            self._state = StateTree(path / STATE)
            keep = bool(self._mark["state"]) if own_state is None else own_state
            self._mark["state"] = self._make_state() if keep else ""
            self._save()
            self.table.enter_supervisor()
        except BaseException:
            if fresh:
                self._leave()
            else:
                os.close(self._fd)  # still marked: the next start finds what the dead stack left
            raise

    @property
    def instance(self) -> str:
        """The name of the gateway here."""
        return str(self._mark["instance"])

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock, and every copy of it."""
        return self._fd

    def make_token(self) -> None:
        """Make the token of the admin API, unless it is there. The marker knows its digest before it is there."""
        if self._ours(admin_token.TOKEN_FILE):
            return
        word = admin_token.new_token()
        self._mark["token"] = _digest(word)
        self._save()
        admin_token.write_token(self.path / admin_token.TOKEN_FILE, word)

    def close(self) -> list[str]:
        """Remove everything of ours, and a directory that we made if it is then empty; returns what else is there."""
        if self._ours(ROSTER_FILE):  # the kvstore did not get to it
            with suppress(ArenaError, OSError):
                Roster(self.path).close()
        for name in STACK_FILES:
            self._remove(name)
        if self._mark["state"]:
            self._state.remove(str(self._mark["state"]))
        return self._leave()

    def release(self) -> None:
        """Leave everything as it is to the processes that run, and to the next supervisor."""
        os.close(self._fd)

    # --- taking a directory ------------------------------------------------------------------------------------

    def _make(self) -> bool:
        """Whether the directory had to be made; raises RunDirError for one that cannot be private."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            return self._close_to_others()
        except OSError as error:
            raise RunDirError(f"cannot make the run directory {self.path}: {error.strerror}") from None
        return True

    def _close_to_others(self) -> bool:
        info = self.path.lstat()
        with suppress(OSError):  # one that we may not even look into is refused below
            if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not any(self.path.iterdir()):
                self.path.chmod(0o700)
        try:
            insist_on_private(self.path)
        except NotPrivate as error:
            raise RunDirError(str(error)) from None
        return False

    def _lock(self) -> tuple[int, bool]:
        """The locked marker, and whether it is a new one."""
        file = self.path / MARKER_FILE
        while True:
            if (fd := self._new_marker(file)) >= 0:
                return fd, True
            try:
                fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                continue  # its owner has just removed it
            except OSError:  # a link, a directory, one that we may not open
                raise self._foreign(MARKER_FILE) from None
            found = self._take_marker(fd)
            if os.fstat(fd).st_nlink:
                self._mark |= {key: found[key] for key in _INHERITED if key in found}
                return fd, False
            os.close(fd)

    def _new_marker(self, file: Path) -> int:
        """Put a marker in place that is written and locked already; -1 if there is one."""
        draft = file.with_name(f".{MARKER_FILE}.{os.getpid()}")
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            _write(fd, self._mark)
            os.link(draft, file)
        except FileExistsError:
            os.close(fd)
            return -1
        except BaseException:
            os.close(fd)
            raise
        finally:
            draft.unlink()
        return fd

    def _take_marker(self, fd: int) -> dict[str, Any]:
        """Lock a marker and read it; raises RunDirError if a stack holds it, or if it is none."""
        found = _marker(fd)
        try:
            if not found:
                raise self._foreign(MARKER_FILE)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _marker(fd)
        except BlockingIOError:
            os.close(fd)
            raise RunDirError(f"another stack (pid {found.get('pid')}) runs in {self.path}") from None
        except BaseException:
            os.close(fd)
            raise

    def _take_over(self, fresh: bool) -> None:
        """Remove what a dead stack left. Raises RunDirError for anything else under a name that is needed."""
        names = [name for name in STACK_FILES if os.path.lexists(self.path / name)]
        for name in names:
            if fresh or not self._ours(name):
                raise self._foreign(name)
        kept = {*KVSTORE_FILES, PROCESSES_FILE, *self._in_use()}
        self.stale = [name for name in names if name not in kept and self._remove(name)]

    def _in_use(self) -> set[str]:
        """The files of processes that run: the gateway's its own, all others the kvstore's and what it starts with."""
        if not self.found:
            return set()
        used = {PREPARED_FILE, *(GATEWAY_FILES if "gateway" in self.found else ())}
        return used | ({*SOCKETS} - {GATEWAY_SOCKET} if "kvstore" in self.found else set())

    def _make_state(self) -> str:
        try:
            return self._state.make(str(self._mark["state"]))
        except FileExistsError:
            raise self._foreign(STATE) from None

    def _foreign(self, name: str) -> RunDirError:
        return RunDirError(
            f"{self.path / name} was not made by this stack: move it away, or choose another run directory (--run-dir)"
        )

    # --- what is ours ------------------------------------------------------------------------------------------

    def _ours(self, name: str) -> bool:
        file = self.path / name
        try:
            kind = stat.S_IFMT(file.lstat().st_mode)
            if name in SOCKETS:
                return kind == stat.S_IFSOCK
            if kind != stat.S_IFREG:
                return False
            if name == admin_token.TOKEN_FILE:
                return bool(_digest(file.read_text().strip()) == self._mark["token"])
            return _DOCUMENTS[name](file)
        except (OSError, ValueError):
            return False

    def _remove(self, name: str) -> bool:
        if not self._ours(name):
            return False
        (self.path / name).unlink()
        return True

    def _save(self) -> None:
        _write(self._fd, self._mark)

    def _leave(self) -> list[str]:
        (self.path / MARKER_FILE).unlink(missing_ok=True)
        others = sorted(entry.name for entry in self.path.iterdir())
        if not others and self._mark["made"]:
            with suppress(OSError):
                self.path.rmdir()
        os.close(self._fd)
        return others


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


def _write(fd: int, mark: dict[str, Any]) -> None:
    """One write of one length: a kill leaves the old marker or the new one."""
    os.pwrite(fd, json.dumps(mark).encode().ljust(MARK_BYTES), 0)


def _marker(fd: int) -> dict[str, Any]:
    """What a marker says; empty for a file that is none."""
    try:
        found = json.loads(os.pread(fd, MARK_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("mark") == MARK else {}
