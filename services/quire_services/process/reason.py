"""The reason a process gives for ending, handed to its supervisor.

A supervisor sees an exit code, a person wants the sentence. So each child inherits a file without a name, and writes
its last reason there besides wherever it prints it; ``quire serve`` reads it when the child has ended and repeats it as
its own last line. A file, because it never blocks and outlives whatever killed the child.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from quire_services.config.input_files import one_line

REASON_VARIABLE = "SUPERVISOR_REASON_FD"
_NAME = "reason"
REASON_BYTES = 4096  # of the file; behind them is what it says of its start (``start_report``)


class StartError(Exception):
    """A process cannot start as it is configured; the message says why."""


def new_reason_file() -> int:
    """A place for a child's reason: a descriptor that the child has to inherit under ``REASON_VARIABLE``."""
    return os.memfd_create(_NAME, os.MFD_CLOEXEC)


def reason_file_of(pid: int, fd: int) -> int:
    """The same place, of a process that another supervisor has started; an empty one where that cannot be opened."""
    file = f"/proc/{pid}/fd/{fd}"
    with suppress(OSError):
        if _is_reason_file(file):
            return os.open(file, os.O_RDWR | os.O_CLOEXEC)
    return new_reason_file()


def reason_of(fd: int) -> str:
    """What the child said, as one line; "" if nothing."""
    return one_line(os.pread(fd, REASON_BYTES, 0).rstrip(b"\0").decode(errors="replace"))


def report_reason(text: str) -> None:
    """Tell the supervisor, if there is one."""
    with suppress(OSError):
        if (fd := reason_fd()) >= 0:
            os.pwrite(fd, one_line(text).encode(errors="replace")[:REASON_BYTES].ljust(REASON_BYTES, b"\0"), 0)


def reason_fd() -> int:
    """The descriptor that the supervisor handed to this process, -1 if there is none."""
    with suppress(OSError, ValueError):
        fd = int(os.environ.get(REASON_VARIABLE, ""))
        # A grandchild inherits the variable without the file: the number may be anything there.
        if _is_reason_file(f"/proc/self/fd/{fd}"):
            return fd
    return -1


def _is_reason_file(link: str) -> bool:
    return os.readlink(link).startswith(f"/memfd:{_NAME}")


def complain(command: str, text: str) -> None:
    """Say in one line on stderr why a command cannot go on, and tell the supervisor."""
    report_reason(text)
    sys.stderr.write(f"{command}: {one_line(text)}\n")
