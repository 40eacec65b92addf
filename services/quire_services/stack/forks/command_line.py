"""What ``ps`` shows of a process that was forked and became another program without an exec.

The kernel shows the memory in which it has put a program's arguments, whatever is there by now. A program that is given
a last argument of ``ROOM`` can write longer ones there; what stays free is null bytes.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

ROOM = " " * 16_384
_ARG_START, _ARG_END = 45, 46  # among the fields of /proc/self/stat behind the name (proc(5): 48 and 49)


def show_command_line(argv: Sequence[str]) -> None:
    """Have /proc/self/cmdline say ``argv``. Raises ValueError if there is no room for it."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    line = b"".join(os.fsencode(word) + b"\0" for word in argv)
    if not start > 0 or len(line) > end - start:
        raise ValueError(f"a command line of {len(line)} bytes, where there are {end - start}")
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, line, len(line))
