"""Mapping a device arena: from a handle to a pointer of this process.

A process opens an arena once, however many sessions it has, and closes it with the last of them: the driver would
count too, but a second open costs and an unpaired close pulls the memory away. The process that exported an IPC
handle cannot open it, so the exporter registers its pointer here and sessions of the same process get that.

``close`` unmaps at once, whatever tensors still point there: its caller has synchronised and launches nothing more.
Nothing here survives a fork: CUDA does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quire_proto.wire.errors import DeviceFault, MapError
from quire_proto.wire.handles import CudaIpcHandle, CudaVmmFdHandle

from . import cuda_device
from . import cuda_driver as driver
from .cuda_device import CudaRefused
from .cuda_driver import CudaError

DeviceHandle = CudaIpcHandle | CudaVmmFdHandle


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The arena on a GPU, as this process sees it.

    Attributes:
        device: ordinal of the GPU in this process.
        pointer: device address of the arena's first byte.
        bytes: size of the arena.
    """

    device: int
    pointer: int
    bytes: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Bytes without a copy, for PyTorch and others; the protocol has no bfloat16 or fp8, so view it as such."""
        return {"shape": (self.bytes,), "typestr": "|u1", "data": (self.pointer, False), "strides": None, "version": 3}


@dataclass(slots=True)
class Opened:
    """A mapping of this process.

    Attributes:
        undo: unmaps it.
        protect: lets nothing of this process write to it any more; None: that is not possible.
        read_only: nothing of this process can write to it.
    """

    memory: DeviceMemory
    undo: Callable[[], None]
    protect: Callable[[], None] | None = None
    read_only: bool = False
    users: int = 0


_lock = threading.Lock()
_exported: dict[bytes, DeviceMemory] = {}
_opened: dict[tuple[str, bytes], Opened] = {}


def exported(handle: bytes, memory: DeviceMemory) -> None:
    """This process exports ``memory`` under an IPC handle."""
    with _lock:
        _exported[handle] = memory


def withdrawn(handle: bytes) -> None:
    """The export ended."""
    with _lock:
        _exported.pop(handle, None)


class DeviceMapping:
    """A session's use of a device arena; ``view`` is where it lies."""

    def __init__(self, handle: DeviceHandle, expected_bytes: int, boot: bytes, fd: int) -> None:
        """Open the arena, or share what this process has open of the same boot.

        ``fd`` is what came over the side socket (-1: nothing); it stays the caller's. Raises MapError.
        """
        if handle.size != expected_bytes:
            raise MapError(f"arena of {handle.size} bytes; the layout needs {expected_bytes}")
        self._key = (handle.type, boot)
        with _lock:
            opened = _opened.get(self._key)
            if opened is None:
                opened = _opened[self._key] = open_handle(handle, fd)
            opened.users += 1
        self.view = opened.memory
        self._open = True

    def close(self) -> bool:
        """Give the arena up; with the last user it is unmapped. Raises DeviceFault if the context is poisoned."""
        with _lock:
            opened = _opened.get(self._key) if self._open else None
            self._open = False
            if opened is None:
                return True
            opened.users -= 1
            if opened.users:
                return True
            del _opened[self._key]
        try:
            opened.undo()
        except CudaError as exc:
            if exc.poisoned:
                raise DeviceFault(f"unmapping the arena: {exc}") from None
            return False  # the mapping goes with the process
        return True


def open_handle(handle: DeviceHandle, fd: int, *, read_only: bool = False) -> Opened:
    """Map what a handle names, ``read_only`` if that is possible here, which ``Opened`` says. Raises MapError."""
    if isinstance(handle, CudaIpcHandle) and handle.handle in _exported:
        return Opened(_exported[handle.handle], lambda: None)
    try:
        device = cuda_device.find(handle.gpu_uuid)
        cuda_device.check(device)
        if isinstance(handle, CudaIpcHandle):
            return _open_ipc(handle, device.ordinal)
        return _open_vmm(handle, device.ordinal, fd, read_only)
    except CudaRefused as exc:
        raise MapError(f"{handle.type} arena: {exc}") from None
    except CudaError as exc:
        raise MapError(f"{handle.type} arena on {handle.gpu_uuid}: {exc}; {_help(handle)}") from None


def _open_ipc(handle: CudaIpcHandle, ordinal: int) -> Opened:
    if len(handle.handle) != driver.IPC_HANDLE_BYTES:
        raise MapError(f"cuda-ipc arena: a handle of {len(handle.handle)} bytes instead of {driver.IPC_HANDLE_BYTES}")
    base = _within(ordinal, lambda: driver.ipc_open(handle.handle))
    return Opened(DeviceMemory(ordinal, base + handle.offset, handle.size), _undo(ordinal, driver.ipc_close, base))


def _open_vmm(handle: CudaVmmFdHandle, ordinal: int, fd: int, read_only: bool) -> Opened:
    if fd < 0:
        raise MapError("cuda-vmm-fd arena: no descriptor came with it")
    size = allocation_bytes(handle.offset + handle.size, driver.vmm_granularity(ordinal))
    try:
        base = _within(ordinal, lambda: driver.vmm_map(ordinal, fd, size, read_only=read_only))
    except CudaError as exc:
        if not read_only or exc.call != driver.SET_ACCESS:
            raise
        read_only = False  # this driver maps for reading and writing only
        base = _within(ordinal, lambda: driver.vmm_map(ordinal, fd, size))

    def unmap(pointer: int) -> None:
        driver.vmm_unmap(pointer, size)

    def protect() -> None:
        driver.enter(ordinal)
        try:
            driver.vmm_protect(ordinal, base, size)
        finally:
            driver.leave(ordinal)

    memory = DeviceMemory(ordinal, base + handle.offset, handle.size)
    return Opened(memory, _undo(ordinal, unmap, base), protect, read_only)


def allocation_bytes(size: int, granularity: int) -> int:
    """``size`` rounded up to what can be allocated."""
    return -(-size // granularity) * granularity


def _within(ordinal: int, action: Callable[[], int]) -> int:
    """Run ``action`` in the primary context and keep the context, or give it back if it fails."""
    driver.enter(ordinal)
    try:
        return action()
    except BaseException:
        driver.leave(ordinal)
        raise


def _undo(ordinal: int, unmap: Callable[[int], None], pointer: int) -> Callable[[], None]:
    def undo() -> None:
        # The closing thread may be another one than the opening thread: the context must be current on it.
        driver.enter(ordinal)
        unmap(pointer)
        for _ in ("this", "the opening"):
            driver.leave(ordinal)

    return undo


def _help(handle: DeviceHandle) -> str:
    here = driver.versions()
    there = (handle.driver_version, handle.cuda_version)
    versions = f"the kvstore has driver and CUDA {there}, this process {here}"
    if isinstance(handle, CudaIpcHandle):
        fix = "share the kvstore's pid and ipc namespaces, which CUDA IPC needs, or set kvstore.arena = cuda-vmm-fd"
        return f"{fix}; {versions}"
    return f"try kvstore.arena = cuda-ipc; {versions}"
