"""Whether a pool fits host memory: on the file system it lies in, and in the memory behind that.

/dev/shm is by default as large as half the memory, whatever else uses it, and in a container the limit of the cgroup
counts its pages too. Going over either ends with some process killed, so it is asked before.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP_MAX = Path("/sys/fs/cgroup/memory.max")


def lacking(directory: Path, size: int, *, memory: bool, empty: bool = False) -> str:
    """Why ``size`` bytes do not fit a directory, in one line; "" if they do.

    ``memory``: all of it will be used, so that the memory behind the directory counts. ``empty``: only what would be so
    if nothing else used any of it. Raises OSError.
    """
    space = os.statvfs(directory)
    free = (space.f_blocks if empty else space.f_bavail) * space.f_frsize
    if size > free:
        return (
            f"the pool needs {size:,} bytes of shared memory and {directory} has {free:,} {'' if empty else 'free'}: "
            "choose fewer blocks, or enlarge it (docker: --shm-size; else: mount -o remount,size=… /dev/shm)"
        )
    have = _limit() if empty else min(_limit(), _available())
    if memory and size > have:
        return (
            f"the pool needs {size:,} bytes of memory and {have:,} are available: choose fewer blocks, or let it grow "
            "as it is used (--reserve=false)"
        )
    return ""


def _limit() -> int:
    """Bytes that the cgroup of this container may use; very many if there is no limit."""
    with suppress(OSError, ValueError):
        return int(CGROUP_MAX.read_text())
    return 1 << 62


def _available() -> int:
    """Bytes that the system could give without killing anything, swap included."""
    found = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    return sum(int(found.get(name, "0 kB").split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
