"""Mapping the arena: from a handle of the handshake to memory of this process.

``shm`` gives a writable memoryview of the whole arena; ``cuda-ipc`` and ``cuda-vmm-fd`` give a device address (see
``cuda_mapping``, imported only then). The host mapping is not inherited by a forked child (MADV_DONTFORK): a child
writing into blocks it does not own would corrupt other requests.
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING

from quire_proto.wire.errors import MapError
from quire_proto.wire.handles import Handle, ShmHandle

if TYPE_CHECKING:
    from .cuda_mapping import DeviceMapping

SHM_DIR = "/dev/shm"


def open_arena(handle: Handle, expected_bytes: int, boot: bytes, fd: int) -> Mapping | DeviceMapping:
    """Map the arena of a session, wherever it lies.

    Args:
        handle: of the handshake.
        expected_bytes: what the layout needs.
        boot: boot id of the kvstore that gave the handle.
        fd: descriptor from the side socket, -1 if none came; the caller closes it.

    Raises:
        MapError: it cannot be mapped here; the message says why and, where something helps, what.
    """
    if isinstance(handle, ShmHandle):
        return Mapping(handle, expected_bytes)
    from .cuda_mapping import DeviceMapping

    return DeviceMapping(handle, expected_bytes, boot, fd)


class Mapping:
    """The arena in host memory; ``view`` is the arena as writable bytes."""

    def __init__(self, handle: Handle, expected_bytes: int) -> None:
        """Map the arena. Raises MapError: unknown type, missing, foreign or wrongly sized segment."""
        if not isinstance(handle, ShmHandle):
            raise MapError(f"arena of type {handle.type!r} is not in host memory")
        if handle.size != expected_bytes:
            raise MapError(f"arena of {handle.size} bytes; the layout needs {expected_bytes}")
        self._mmap = _map(handle)
        self._whole = memoryview(self._mmap)
        self.view = self._whole[handle.offset : handle.offset + handle.size]

    def close(self) -> bool:
        """Give the memory back. False if arrays over it still live: then it goes with the last of them."""
        try:
            self.view.release()
            self._whole.release()
            self._mmap.close()
        except BufferError:
            return False
        return True


def _map(handle: ShmHandle) -> mmap.mmap:
    name = handle.name.removeprefix("/")
    if not name or "/" in name or name in (".", ".."):
        raise MapError(f"{handle.name!r} is no name of a shared memory segment")
    path = os.path.join(SHM_DIR, name)
    total = handle.offset + handle.size
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise MapError(f"{path}: {exc.strerror}") from exc
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            raise MapError(f"{path}: not a segment of user {os.geteuid()}")
        if info.st_size < total:
            raise MapError(f"{path}: {info.st_size} bytes; the handle names {total}")
        memory = mmap.mmap(fd, total, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as exc:
        raise MapError(f"{path}: {exc.strerror}") from exc
    finally:
        os.close(fd)
    memory.madvise(mmap.MADV_DONTFORK)
    return memory
