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
CGROUP_CURRENT = Path("/sys/fs/cgroup/memory.current")
CGROUP_STAT = Path("/sys/fs/cgroup/memory.stat")


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
    have = _limit() if empty else available_bytes()
    if memory and size > have:
        return (
            f"the pool needs {size:,} bytes of memory and {have:,} are available: choose fewer blocks, or let it grow "
            "as it is used (--reserve=false)"
        )
    return ""


def free_bytes(directory: Path) -> tuple[int, str]:
    """How many bytes a directory in memory could take now, and which of its bounds that is. Raises OSError.

    The least of three: of the file system, of the memory that nothing needs (swap left out), and of what the cgroup has
    not used yet (its cached files left out: they go when memory is short).
    """
    space = os.statvfs(directory)
    bounds = [
        (space.f_bavail * space.f_frsize, f"bytes free in {directory}"),
        (_meminfo("MemAvailable"), "bytes of available memory"),
        (max(0, _limit() - _used()), "bytes left to this container"),
    ]
    return min(bounds)


def available_bytes() -> int:
    """Bytes of memory that could be taken now, in this container. Raises OSError."""
    return min(_limit(), _available())


def _limit() -> int:
    """Bytes that the cgroup of this container may use; very many if there is no limit."""
    with suppress(OSError, ValueError):
        return int(CGROUP_MAX.read_text())
    return 1 << 62


def _available() -> int:
    """Bytes that the system could give without killing anything, swap included."""
    return _meminfo("MemAvailable", "SwapFree")


def _meminfo(*names: str) -> int:
    """The sum of these lines, in bytes."""
    found = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    return sum(int(found.get(name, "0 kB").split()[0]) * 1024 for name in names)


def _used() -> int:
    """Bytes of the cgroup's memory that it could not give back; 0 where there is no cgroup of our own."""
    with suppress(OSError, ValueError):
        stat = dict(line.split() for line in CGROUP_STAT.read_text().splitlines())
        return int(CGROUP_CURRENT.read_text()) - int(stat.get("inactive_file", "0"))
    return 0
