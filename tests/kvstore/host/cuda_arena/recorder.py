"""The one recorder at the cuda-bindings boundary: stands in for ``cuda.bindings.driver`` where there is no GPU.

Records every call, hands out pointers, handles and descriptors that mean nothing to a GPU, and counts what is held.
Memory behind a descriptor is host memory, really shared, and where a test wants it (``mapped``) really mapped: for
reading only where that is what was asked for. So is plain memory then, and what its IPC handle opens.
Types and constants are the real ones, and a function that the real module lacks is lacking here too.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cuda.bindings import driver as real

if TYPE_CHECKING:  # the processes that run with this need no pytest
    import pytest

GRANULE = 2 << 20
BASE_BELOW = 512  # the driver's own allocation begins this far below a pointer of cuMemAlloc
GIVES = {"cuMemAlloc": "pointer", "cuMemAddressReserve": "pointer", "cuIpcOpenMemHandle": "pointer", "cuMemMap": "map"}
TAKES = {"cuMemFree": "pointer", "cuMemAddressFree": "pointer", "cuIpcCloseMemHandle": "pointer", "cuMemUnmap": "map"}
GIVES |= {"cuDevicePrimaryCtxRetain": "context", "cuMemCreate": "handle", "cuMemImportFromShareableHandle": "handle"}
TAKES |= {"cuDevicePrimaryCtxRelease": "context", "cuMemRelease": "handle"}
MAP_FIXED = 16
_libc = ctypes.CDLL(None)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def _mmap(address: int, size: int, protection: int, flags: int, fd: int) -> int:
    found = _libc.mmap(address, size, protection, flags, fd, 0)
    assert found not in (None, ctypes.c_void_p(-1).value), "mmap"
    return int(found)


class Recorder:
    """A driver with GPUs; ``fail`` maps a function to the error that it gives.

    ``strict``: it makes memory only where a context is current, against its documentation.
    """

    def __init__(
        self,
        *,
        uuid: int = 0,
        total: int = 1 << 30,
        log: str = os.devnull,
        strict: bool = False,
        mapped: bool = False,
        **fail: str,
    ) -> None:
        self.strict, self.mapped = strict, mapped
        self.fail, self.log, self.total = fail, Path(log), total
        self.uuids = [bytes([uuid]) * 16]
        self.name = b"NVIDIA H200\0"
        self.attributes: dict[str, int] = {}
        self.calls: list[str] = []
        self.held: Counter[str] = Counter()
        self.imported = 0  # inode of the memory imported last
        self._pointer = 0x7000_0000_0000
        self._plain: dict[int, tuple[int, int]] = {}  # descriptor and bytes behind plain memory, by its base

    def __getattr__(self, name: str) -> Any:
        thing = getattr(real, name)
        return (lambda *arguments: self._call(name, arguments)) if name.startswith("cu") else thing

    def _call(self, name: str, arguments: Any) -> tuple[Any, ...]:
        self.calls.append(name)
        with self.log.open("a") as log:
            thread = threading.current_thread()
            log.write(name + ("" if thread is threading.main_thread() else f" {thread.name}") + "\n")
        code = self.fail.get(name, "")
        if code == "NO_LIBRARY":
            raise RuntimeError("Failed to load libcuda.so.1")
        results = () if code else self._answer(name, arguments)
        if isinstance(results, str) or code:
            return (getattr(real.CUresult, "CUDA_ERROR_" + (code or str(results))), None)
        self.held += Counter({GIVES[name]: 1} if name in GIVES else {})
        if name in TAKES:
            assert self.held[TAKES[name]], f"{name}: nothing of that kind is held"
            self.held[TAKES[name]] -= 1
        return (real.CUresult.CUDA_SUCCESS, *results)

    def _answer(self, name: str, arguments: Any) -> tuple[Any, ...] | str:
        """What a call gives beside its code; a string is an error."""
        match name, arguments:
            case "cuMemAddressReserve", (size, *_) if self.mapped:
                return (real.CUdeviceptr(_mmap(0, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)),)
            case "cuMemMap", (pointer, size, _, fd, _) if self.mapped:
                _mmap(int(pointer), size, 0, mmap.MAP_SHARED | MAP_FIXED, fd)
            case "cuMemSetAccess", (pointer, size, (access, *_), _) if self.mapped:
                assert _libc.mprotect(int(pointer), size, int(access.flags)) == 0  # PROT_READ is 1 there and here
            case "cuMemUnmap", (pointer, size) if self.mapped:
                assert _libc.munmap(int(pointer), size) == 0
            case "cuMemAlloc", (size, *_) if self.mapped and size <= self.total:
                os.truncate(fd := os.memfd_create("device memory"), size + BASE_BELOW)
                return (real.CUdeviceptr(self._map_plain(fd) + BASE_BELOW),)
            case "cuMemFree", (pointer,) if self.mapped:
                self._unmap_plain(int(pointer) - BASE_BELOW)
            case "cuIpcCloseMemHandle", (pointer,) if self.mapped:
                self._unmap_plain(int(pointer))
            case "cuMemAlloc" | "cuMemAddressReserve", (size, *_):
                self._pointer += 1 << 32
                return (real.CUdeviceptr(self._pointer),) if size <= self.total else "OUT_OF_MEMORY"
            case "cuIpcGetMemHandle", (pointer,):
                fd = self._plain[int(pointer) - BASE_BELOW][0] if self.mapped else 0
                handle, raw = real.CUipcMemHandle(), b"%-32d%-32d" % (os.getpid(), fd)
                ctypes.memmove(handle.getPtr(), raw, 64)
                return (handle,)
            case "cuIpcOpenMemHandle", (handle, _):
                exporter = int(ctypes.string_at(handle.getPtr(), 32))
                foreign = exporter != os.getpid() and Path(f"/proc/{exporter}").exists()
                if foreign and self.mapped:
                    fd = int(ctypes.string_at(handle.getPtr() + 32, 32))
                    return (real.CUdeviceptr(self._map_plain(os.open(f"/proc/{exporter}/fd/{fd}", os.O_RDWR))),)
                return (real.CUdeviceptr(0x6000_0000_0000),) if foreign else "INVALID_CONTEXT"
            case "cuMemCreate", _ if self.strict and not self.held["context"]:
                return "INVALID_CONTEXT"
            case "cuMemCreate", (size, *_):
                assert size % GRANULE == 0, "not whole granules"
                os.truncate(fd := os.memfd_create("device memory"), size)
                return (fd,) if size <= self.total else "OUT_OF_MEMORY"
            case "cuMemImportFromShareableHandle", (fd, *_) if "device memory" not in os.readlink(
                f"/proc/self/fd/{fd}"
            ):
                return "INVALID_VALUE"
            case "cuMemExportToShareableHandle" | "cuMemImportFromShareableHandle", (fd, *_):
                self.imported = os.fstat(fd).st_ino
                return (os.dup(fd),)
            case "cuMemRelease", (fd,):
                os.close(fd)
            case "cuDeviceGetUuid" | "cuDeviceGetUuid_v2", (ordinal,):
                return (SimpleNamespace(bytes=self.uuids[ordinal]),)
            case "cuDeviceGetAttribute", (key, _):
                return (self.attributes.get(key.name.removeprefix("CU_DEVICE_ATTRIBUTE_"), 0),)
            case "cuMemGetInfo", _:
                return self.total, self.total
            case "cuMemGetAddressRange", (pointer,):
                return (real.CUdeviceptr(int(pointer) - BASE_BELOW), GRANULE)
        fixed = {"cuDriverGetVersion": 13000, "cuDeviceGetCount": len(self.uuids), "cuDeviceGetName": self.name}
        fixed |= {"cuDeviceTotalMem": self.total, "cuMemGetAllocationGranularity": GRANULE}
        fixed |= {"cuDeviceGet": arguments[0] if arguments else 0, "cuDevicePrimaryCtxRetain": "the context"}
        return (fixed[name],) if name in fixed else ()

    def _map_plain(self, fd: int) -> int:
        size = os.fstat(fd).st_size
        base = _mmap(0, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd)
        self._plain[base] = fd, size
        return base

    def _unmap_plain(self, base: int) -> None:
        fd, size = self._plain.pop(base)
        assert _libc.munmap(base, size) == 0
        os.close(fd)


@contextlib.contextmanager
def recorded_driver(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> Iterator[Recorder]:
    """A recorder as this process's driver; at the end nothing of it is held, and no descriptor is left open."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", recorder)  # type: ignore[arg-type]
    before = len(os.listdir("/proc/self/fd"))
    yield recorder
    assert +recorder.held == {}
    assert len(os.listdir("/proc/self/fd")) == before
