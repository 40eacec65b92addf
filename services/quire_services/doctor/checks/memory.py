"""Memory: whether the pool and the weights fit, and segments that no process uses any more."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from quire_kvstore.host.arena import ROSTER_FILE, SHM_DIR
from quire_kvstore.host.host_space import available_bytes, lacking
from quire_proto.client.socket import KVSTORE_SOCKET
from quire_services.config.input_files import read_bytes
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.scene import Scene

_SEGMENT = re.compile(r"quire-[0-9a-f]{32}")
_ROSTER_BYTES = 4096
_ENLARGE = "enlarge it (docker: --shm-size; else: mount -o remount,size=... /dev/shm), or choose a smaller pool"


def check_memory(scene: Scene) -> Findings:
    """Shared memory and what is behind it. A pool that is there has been paid for."""
    try:
        space = os.statvfs(SHM_DIR)
    except OSError as error:
        yield problem("shm-unusable", f"{SHM_DIR}: {error.strerror}", "mount a tmpfs there", SHM_DIR)
        return
    if not os.access(SHM_DIR, os.W_OK | os.X_OK, effective_ids=True):
        yield problem(
            "shm-unusable",
            f"this user (uid {os.geteuid()}) cannot write to {SHM_DIR}",
            f"mount it writable, with mode 1777 (chmod 1777 {SHM_DIR})",
            SHM_DIR,
        )
    total, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    yield fact("shared-memory", f"{SHM_DIR} has {total:,} bytes, {free:,} of them free", SHM_DIR)
    if scene.pool_bytes and scene.config.kvstore.arena in ("auto", "shm") and not scene.listens(KVSTORE_SOCKET):
        yield from _pool(scene, scene.pool_bytes, total, free)
    yield fact("memory", f"{available_bytes():,} bytes are available")
    yield from _left_over(scene)


def _pool(scene: Scene, size: int, total: int, free: int) -> Findings:
    needs = f"the pool needs {size:,} bytes"
    if size > total:
        yield problem("shm-small", f"{needs} and {SHM_DIR} has {total:,} in all", _ENLARGE, SHM_DIR)
    elif size > free:
        yield problem(
            "shm-full",
            f"{needs} and {SHM_DIR} has {free:,} free of {total:,}",
            f"remove what fills it (ls -lS {SHM_DIR}; segments that are left over are findings of their own), or "
            + _ENLARGE,
            SHM_DIR,
        )
    elif scene.config.kvstore.reserve and (why := lacking(SHM_DIR, size, memory=True)):
        yield problem(
            "memory-short", why, "choose a smaller pool, end what uses the memory, or --reserve=false", "kvstore.blocks"
        )


def _left_over(scene: Scene) -> Findings:
    """Segments of ours that no process we can see maps, and no kvstore that runs has made."""
    found = dict(_segments())
    unused = found.keys() - _used_segments() if found else ()
    for name in sorted(unused):
        if not (SHM_DIR / name).exists():
            continue  # its kvstore has ended meanwhile
        here = name == _segment_of(scene.run_dir / ROSTER_FILE)
        yield problem(
            "leftover-segment",
            f"{found[name]:,} bytes of a kvstore that is gone, mapped by no process that can be seen from here",
            (f"the next start in {scene.run_dir} removes it; or: " if here else "")
            + f"rm {SHM_DIR / name}, unless a container whose processes cannot be seen from here shares {SHM_DIR}",
            SHM_DIR / name,
        )


def _segments() -> Iterator[tuple[str, int]]:
    """Name and size of each segment that this user could remove; root sees all processes, and so judges all."""
    with suppress(OSError):
        for file in SHM_DIR.iterdir():
            if _SEGMENT.fullmatch(file.name):
                with suppress(FileNotFoundError):
                    info = file.lstat()
                    if os.geteuid() in (0, info.st_uid):
                        yield file.name, info.st_size


def _used_segments() -> set[str]:
    """Names of segments that a process maps or has open, and of those in the rosters that kvstores have open."""
    used: set[str] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            used.update(_SEGMENT.findall((process / "maps").read_text(errors="replace")))
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                used |= _named_by(descriptor)
    return used


def _named_by(descriptor: Path) -> set[str]:
    """The segment that an open file is, or names."""
    try:
        target = os.readlink(descriptor)
    except OSError:
        return set()
    if target.endswith(f"/{ROSTER_FILE}"):
        return {_segment_of(descriptor)}
    return set(_SEGMENT.findall(target))


def _segment_of(roster: Path) -> str:
    try:
        return str(json.loads(read_bytes(roster, _ROSTER_BYTES))["shm"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""
