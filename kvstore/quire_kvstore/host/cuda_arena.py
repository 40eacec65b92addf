"""Arenas on a GPU. Two ways to share device memory between processes, both of explicit size.

``CudaVmmFdArena``: virtual memory management. The memory is a file descriptor that goes to each process with the
hello of its side socket. The kvstore maps nothing, has no context, and makes no driver call after the start. The
memory lives as long as any process holds or maps it, so it outlives a killed kvstore under its engines, and no
namespaces need to be shared.

``CudaIpcArena``: plain device memory with a 64-byte IPC handle. Needs shared pid and ipc namespaces and a context
here. What a mapping shows after its exporter died is undefined: engines let go at once, and the next kvstore
waits for them (``device_mappers``) before it allocates.

Neither is zeroed: an engine reads no slot that was not written.
"""

from __future__ import annotations

import os

from quire_proto.memory import cuda_driver as driver
from quire_proto.memory.cuda_device import Device
from quire_proto.memory.cuda_driver import CudaError
from quire_proto.memory.cuda_mapping import DeviceMemory, allocation_bytes, exported, withdrawn
from quire_proto.wire.handles import CudaIpcHandle, CudaVmmFdHandle

from .arena import ArenaError

# Below this the driver may cut several allocations out of one block, and a handle opens the whole block.
IPC_GRANULARITY = 2 * 1024 * 1024
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
KV, WEIGHTS = "kv", "weights"
_NEEDS = {KV: "the pool needs", WEIGHTS: "the weights need"}
_LESS = {KV: "choose fewer blocks", WEIGHTS: "give the pool less (--kv-gib or --blocks)"}


class DeviceFull(ArenaError):
    """There is not as much memory on the GPU."""


class DescriptorArena:
    """Device memory behind a file descriptor; ``fd`` is that descriptor."""

    fd = -1
    _handle: CudaVmmFdHandle

    def handle(self) -> CudaVmmFdHandle:
        """Size and GPU; the descriptor goes over a socket."""
        return self._handle

    def close(self) -> None:
        """Close our descriptor; the memory goes with the last mapping."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class CudaVmmFdArena(DescriptorArena):
    """An arena of ``size`` bytes behind a file descriptor that is made here."""

    def __init__(self, size: int, device: Device, kind: str = KV) -> None:
        """Make it. Raises ArenaError."""
        check_fits(size, device, kind)
        try:
            versions = driver.versions()
            self.fd = driver.vmm_export(device.ordinal, allocation_bytes(size, driver.vmm_granularity(device.ordinal)))
        except CudaError as exc:
            raise _error(exc, size, device, "kvstore.arena = cuda-ipc", kind) from None
        os.set_inheritable(self.fd, False)
        self._handle = CudaVmmFdHandle(size, device.uuid, *versions, kind=kind)


class CudaIpcArena:
    """An arena of ``size`` bytes of plain device memory, shared by its IPC handle."""

    fd = -1

    def __init__(self, size: int, device: Device, kind: str = KV) -> None:
        """Make it. Raises ArenaError."""
        check_fits(size, device, kind)
        self._ordinal = device.ordinal
        self._pointer = 0
        self._handle: CudaIpcHandle | None = None
        try:
            driver.enter(device.ordinal)
        except CudaError as exc:
            raise _error(exc, size, device, "nvidia-smi", kind) from None
        try:
            self._pointer = driver.allocate(allocation_bytes(size, IPC_GRANULARITY))
            raw = driver.ipc_export(self._pointer)
            offset = self._pointer - driver.base_of(self._pointer)
            self._handle = CudaIpcHandle(raw, size, device.uuid, *driver.versions(), offset, kind)
        except CudaError as exc:
            self.close()
            raise _error(exc, size, device, "kvstore.arena = cuda-vmm-fd", kind) from None
        exported(raw, DeviceMemory(device.ordinal, self._pointer, size))

    def handle(self) -> CudaIpcHandle:
        """The IPC handle, with size, offset and GPU."""
        assert self._handle is not None, "made by the constructor"
        return self._handle

    def close(self) -> None:
        """Free the memory and leave the context."""
        if self._ordinal < 0:
            return
        if self._handle is not None:
            withdrawn(self._handle.handle)
        try:
            if self._pointer:
                driver.free(self._pointer)
            driver.leave(self._ordinal)
        except CudaError:
            pass  # the process is about to end, and the driver frees what it held
        self._ordinal = -1


def check_fits(size: int, device: Device, kind: str = KV) -> None:
    """Refuse an arena larger than the GPU before anything is allocated. Raises DeviceFull."""
    if size > device.total:
        raise DeviceFull(f"{_NEEDS[kind]} {size:,} bytes and {device.uuid} has {device.total:,}: {_LESS[kind]}")


def _error(exc: CudaError, size: int, device: Device, instead: str, kind: str) -> ArenaError:
    if exc.code == OUT_OF_MEMORY:
        return DeviceFull(
            f"{_NEEDS[kind]} {size:,} bytes and of the {device.total:,} of {device.uuid} not as many are free:"
            f" {_LESS[kind]}, or end what else uses this GPU (nvidia-smi lists it)"
        )
    return ArenaError(f"{device.uuid}: {exc}: try {instead}")
