"""The process table of a run directory: what ``quire serve`` has started there, and which of it still runs.

    {"machine", "pid_namespace", "supervisor": {"pid", "ticks", "argv", ...}, "processes": {"engine-1": {...}, ...}}

Processes outlive their supervisor, and the next one must find them and nothing else. So an entry names a process as
nothing else can be named: by pid and start time, in this boot of the machine and this pid namespace; besides, its
command line must be the one that it was started with. An entry is written by the process that it is about, before it
becomes the program of its command line: there is no moment at which it runs and is not in the table.

The file is replaced as a whole. It is written under the lock of the run directory alone, and read by any command.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quire_kvstore.host.attach_socket import start_ticks
from quire_kvstore.host.device_mappers import pid_scope

from .input_files import read_bytes, write_private

PROCESSES_FILE = "processes.json"
MAX_TABLE_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """One process.

    Attributes:
        pid, ticks: which process it is, as pid and start time in clock ticks; 0 while it is down.
        argv: its command line.
        settings: a digest of all that it was started with.
        reason_fd: where it says why it ends, as its own descriptor.
        starts: how often it was started by its supervisors.
        last_end: how the one before it ended; empty for the first.
    """

    pid: int = 0
    ticks: int = 0
    argv: list[str] = field(default_factory=list)
    settings: str = ""
    reason_fd: int = -1
    starts: int = 0
    last_end: str = ""

    def runs(self) -> bool:
        """Whether exactly this process runs; one that has ended and waits to be reaped does not."""
        if not self.pid:
            return False
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            line = Path(f"/proc/{self.pid}/cmdline").read_bytes().rstrip(b"\0")  # a forked one has room behind its own
            return state not in "ZX" and start_ticks(self.pid) == self.ticks and line == _command_line(self.argv)
        except OSError:
            return False

    def option(self, name: str) -> str:
        """The value of ``--name=value`` in its command line; empty if it has none."""
        start = f"--{name}="
        return next((word.removeprefix(start) for word in self.argv if word.startswith(start)), "")


class ProcessTable:
    """The table of one run directory.

    Attributes:
        run_dir: where it is.
        supervisor: the last ``quire serve`` there.
        processes: what it has started, by name.
    """

    def __init__(
        self, run_dir: Path, supervisor: ProcessEntry | None = None, processes: Mapping[str, ProcessEntry] | None = None
    ) -> None:
        self.run_dir = run_dir
        self.supervisor = supervisor or ProcessEntry()
        self.processes = dict(processes or {})

    def running(self) -> dict[str, ProcessEntry]:
        """Those that run."""
        return {name: entry for name, entry in self.processes.items() if entry.runs()}

    def enter(self, name: str, entry: ProcessEntry) -> None:
        """Write one entry. Raises OSError."""
        self.processes[name] = entry
        self.save()

    def remove(self, name: str) -> None:
        """Take out an entry that nothing will be started for again. Raises OSError."""
        self.processes.pop(name, None)
        self.save()

    def enter_supervisor(self) -> None:
        """Write this process as the supervisor. Raises OSError."""
        argv = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
        self.supervisor = ProcessEntry(os.getpid(), start_ticks(os.getpid()), [os.fsdecode(word) for word in argv])
        self.save()

    def save(self) -> None:
        """Replace the file. Raises OSError."""
        processes = {name: asdict(entry) for name, entry in self.processes.items()}
        table = {**pid_scope(), "supervisor": asdict(self.supervisor), "processes": processes}
        write_private(self.run_dir / PROCESSES_FILE, json.dumps(table))


def read_process_table(run_dir: Path) -> ProcessTable:
    """The table of a run directory: an empty one if there is none, or if its pids mean nothing here."""
    try:
        found = _parsed(run_dir / PROCESSES_FILE)
        if any(found[key] != value for key, value in pid_scope().items()):
            return ProcessTable(run_dir)
        processes = {str(name): _entry(value) for name, value in found["processes"].items()}
        return ProcessTable(run_dir, _entry(found["supervisor"]), processes)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return ProcessTable(run_dir)


def is_process_table(file: Path) -> bool:
    """Whether a file has the shape of a process table. Raises OSError."""
    try:
        return _parsed(file).keys() == {"machine", "pid_namespace", "supervisor", "processes"}
    except ValueError:
        return False


def _parsed(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bytes(file, MAX_TABLE_BYTES))
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _entry(value: dict[str, Any]) -> ProcessEntry:
    """An entry as it was written. Raises ValueError or TypeError for anything else."""
    entry = ProcessEntry(**value)
    numbers = (entry.pid, entry.ticks, entry.reason_fd, entry.starts)
    texts = (entry.settings, entry.last_end, *entry.argv)
    if not all(type(number) is int for number in numbers) or not all(isinstance(text, str) for text in texts):
        raise ValueError("not a process")
    return entry


def _command_line(argv: list[str]) -> bytes:
    return b"\0".join(map(os.fsencode, argv)).rstrip(b"\0")
