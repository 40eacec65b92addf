"""Mappers: the private roster of processes that may map a device arena, and the end of those of an earlier life.

Host memory is gone for good once its last mapping is; with device memory that is not enough. After the exporter's
death the driver may give memory to the next process that asks while an engine's kernels still write there. So a
kvstore that starts looks which processes were connected to its predecessor and, before it allocates anything, waits
until each

    has ended, or
    has come back to the side socket: a client connects again only after it has unmapped,

and kills any that does neither in time. A process is named by pid and start time, so no other one can be hit; entries
of an earlier boot of the machine, or of another pid namespace, name no process.

The file is replaced whole by a rename: a kill leaves the old or the new text.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections import Counter
from pathlib import Path

import structlog

from .arena import ArenaError
from .attach_socket import Accepted, Listener, PeerGone, start_ticks

MAPPERS_FILE = "mappers.json"
WEIGHTS_MAPPERS_FILE = "weights-mappers.json"  # the same of weights, where they are behind IPC handles
MAPPERS_GONE_S = 10.0

Mapper = tuple[int, int]
log = structlog.get_logger()


class Mappers:
    """The roster of one run directory; the lock on ``arena.Roster`` protects it.

    Attributes:
        old: processes of an earlier life that still run, as (pid, start time in ticks).
    """

    def __init__(self, run_dir: Path, name: str = MAPPERS_FILE) -> None:
        self._path = run_dir / name
        self._here = pid_scope()
        self._present: Counter[Mapper] = Counter()
        self.old = [mapper for mapper in self._read() if _lives(mapper)]

    def add(self, pid: int) -> Mapper | None:
        """A process is about to get the arena; None if its pid says nothing here (another pid namespace)."""
        try:
            mapper = (pid, start_ticks(pid))
        except OSError:
            log.warning("mapper_unknown", mapper_pid=pid)
            return None
        self._present[mapper] += 1
        self._write()
        return mapper

    def remove(self, mapper: Mapper) -> None:
        """One connection of the process ended with nothing mapped."""
        self._present[mapper] -= 1
        self._present += Counter()  # drops those at zero
        self._write()

    def settle(self, listener: Listener | None, wait_ms: int) -> list[Accepted]:
        """Wait until no old mapper is left, then kill; returns the connections accepted meanwhile.

        Without a listener there is no coming back: each must have ended.

        Raises ArenaError if a process cannot be killed.
        """
        accepted: list[Accepted] = []
        waiting = {pidfd: mapper for mapper in self.old if (pidfd := _open(mapper)) >= 0}
        try:
            if waiting:
                log.warning("waiting_for_old_mappers", pids=[pid for pid, _ in waiting.values()])
            _wait(waiting, listener, accepted, wait_ms / 1000)
            for pidfd, (pid, _) in waiting.items():
                _kill(pidfd, pid)
            _wait(waiting, None, accepted, MAPPERS_GONE_S)
            if waiting:
                raise ArenaError(f"processes {_pids(waiting)} map an earlier arena and do not die: see ps and dmesg")
        finally:
            for pidfd in waiting:
                os.close(pidfd)
        self.old = []
        self._write()
        return accepted

    def close(self) -> None:
        """Remove the file, unless a process may still map the arena: then the next start reads it."""
        if not self._present:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        text = json.dumps({**self._here, "mappers": sorted(self._present)})
        new = self._path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        new.replace(self._path)

    def _read(self) -> list[Mapper]:
        try:
            value = json.loads(self._path.read_text())
            named = [(int(pid), int(ticks)) for pid, ticks in value.pop("mappers")]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return []
        return named if value == self._here else []


def is_mappers(file: Path) -> bool:
    """Whether a file is what a kvstore wrote as this roster. Raises OSError."""
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() == {"machine", "pid_namespace", "mappers"}


def _wait(waiting: dict[int, Mapper], listener: Listener | None, accepted: list[Accepted], limit_s: float) -> None:
    """Take out of ``waiting`` what ended or connected, until it is empty or the time is over."""
    until = time.monotonic() + limit_s
    poll = select.poll()
    for fd in (*waiting, *([listener.fileno()] if listener else [])):
        poll.register(fd, select.POLLIN)
    while waiting and (left := until - time.monotonic()) > 0:
        ready = {fd for fd, _ in poll.poll(left * 1000)}
        if listener is not None and listener.fileno() in ready:
            accepted += _accept(listener)
        back = {pid for _, _, pid, _ in accepted}
        for pidfd, (pid, _) in list(waiting.items()):
            # A process is dead once its pidfd is readable, and so its pid in ``back`` is still its own.
            if pidfd in ready or pid in back:
                poll.unregister(pidfd)
                del waiting[pidfd]
                os.close(pidfd)


def _accept(listener: Listener) -> list[Accepted]:
    found: list[Accepted] = []
    while True:
        try:
            one = listener.accept()
        except PeerGone:
            return found  # any other that waits is found by the next poll
        if one is None:
            return found
        found.append(one)


def _kill(pidfd: int, pid: int) -> None:
    log.warning("old_mapper_killed", mapper_pid=pid)
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError as exc:
        whose = "is another user's" if isinstance(exc, PermissionError) else f"cannot be killed ({exc.strerror})"
        raise ArenaError(f"process {pid} maps an earlier arena and {whose}: end it first") from None


def _open(mapper: Mapper) -> int:
    """A pidfd of exactly this process, -1 if it is gone."""
    try:
        pidfd = os.pidfd_open(mapper[0])
    except ProcessLookupError:
        return -1
    except OSError as exc:
        raise ArenaError(f"process {mapper[0]} maps an earlier arena and cannot be watched: {exc.strerror}") from None
    if _lives(mapper):
        return pidfd
    os.close(pidfd)
    return -1


def _lives(mapper: Mapper) -> bool:
    try:
        return start_ticks(mapper[0]) == mapper[1]
    except OSError:
        return False


def pid_scope() -> dict[str, object]:
    """What a pid means something in: this boot of the machine and this pid namespace."""
    return {
        "machine": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid_namespace": os.stat("/proc/self/ns/pid").st_ino,
    }


def _pids(waiting: dict[int, Mapper]) -> str:
    return ", ".join(str(pid) for pid, _ in waiting.values())
