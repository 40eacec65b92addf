"""The CUDA driver, as far as arenas need it: the one place that calls ``cuda.bindings``.

Thin on purpose: a function is one or a few driver calls on plain numbers and bytes, so that everything above can be
driven by a recorder of driver calls on a machine without a GPU. cuda-bindings is optional and imported on first use.
Every failure is a ``CudaError`` that names the call and the driver's own code.

A *poisoned* context is one in which a kernel failed or the device did: every later call fails, and only a new
process helps.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

IPC_HANDLE_BYTES = 64
# After these every call in the context fails (driver documentation: "the process must be terminated and relaunched").
POISON = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        "ILLEGAL_ADDRESS", "LAUNCH_TIMEOUT", "LAUNCH_FAILED", "ASSERT", "HARDWARE_STACK_ERROR", "ILLEGAL_INSTRUCTION",
        "MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC", "ECC_UNCORRECTABLE", "NVLINK_UNCORRECTABLE",
        "CONTAINED", "TENSOR_MEMORY_LEAK", "CONTEXT_IS_DESTROYED", "EXTERNAL_DEVICE",
    )
)  # fmt: skip
NO_BINDINGS, NO_DRIVER = "NO_BINDINGS", "NO_DRIVER"
NO_CONTEXT = "CUDA_ERROR_INVALID_CONTEXT"
SET_ACCESS = "cuMemSetAccess"


class CudaError(Exception):
    """A driver call failed.

    Attributes:
        call: name of the driver function.
        code: the driver's name for the error, or NO_BINDINGS or NO_DRIVER.
    """

    def __init__(self, call: str, code: str, text: str = "") -> None:
        super().__init__(f"{call}: {code}" + (f" ({text})" if text else ""))
        self.call, self.code = call, code

    @property
    def poisoned(self) -> bool:
        """Whether no later call in this context can succeed."""
        return self.code in POISON


def bindings() -> Any:
    """The module ``cuda.bindings.driver``. Raises CudaError (NO_BINDINGS)."""
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as exc:
        raise CudaError("import cuda.bindings", NO_BINDINGS, str(exc)) from None


def call(name: str, *arguments: Any) -> Any:
    """Call a driver function; returns what it gives beside the error code. Raises CudaError."""
    driver = bindings()
    try:
        code, *results = getattr(driver, name)(*arguments)
    # cuda-bindings raises RuntimeError, of several kinds, for a missing library and for a missing symbol.
    except (RuntimeError, AttributeError) as exc:
        raise CudaError(name, NO_DRIVER, str(exc).splitlines()[0][:200] if str(exc) else "") from None
    if int(code):
        raise CudaError(name, getattr(code, "name", str(code)))
    return results[0] if len(results) == 1 else results


def initialise() -> None:
    """Start the driver in this process."""
    call("cuInit", 0)


def versions() -> tuple[int, int]:
    """(driver, CUDA of the bindings), as in 13000 for 13.0."""
    return int(call("cuDriverGetVersion")), int(bindings().CUDA_VERSION)


# --- devices -----------------------------------------------------------------------------------------------------


def device_count() -> int:
    """Devices that this process sees (a MIG instance counts as one)."""
    return int(call("cuDeviceGetCount"))


def device_name(ordinal: int) -> str:
    """Name for people."""
    raw: bytes = call("cuDeviceGetName", 128, _device(ordinal))
    return raw.partition(b"\0")[0].decode(errors="replace").strip()


def device_uuid(ordinal: int) -> bytes:
    """16 bytes; on MIG those of the instance."""
    # Bindings of CUDA 12 name the one that knows MIG "_v2"; those of CUDA 13 have only that, without the suffix.
    name = "cuDeviceGetUuid_v2" if hasattr(bindings(), "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    return bytes(call(name, _device(ordinal)).bytes)


def device_bytes(ordinal: int) -> int:
    """Memory of the device in all."""
    return int(call("cuDeviceTotalMem", _device(ordinal)))


def attribute(ordinal: int, name: str) -> int | None:
    """A device attribute; None if these bindings or this driver do not know it."""
    key = getattr(bindings().CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}", None)
    if key is None:
        return None
    try:
        return int(call("cuDeviceGetAttribute", key, _device(ordinal)))
    except CudaError as exc:
        if exc.code == "CUDA_ERROR_INVALID_VALUE":
            return None
        raise


def _device(ordinal: int) -> Any:
    return call("cuDeviceGet", ordinal)


# --- contexts: always the primary one, which PyTorch uses too ----------------------------------------------------


def enter(ordinal: int) -> None:
    """Make the primary context current on this thread; one ``leave`` for each."""
    call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", _device(ordinal)))


def leave(ordinal: int) -> None:
    """Give one ``enter`` back."""
    call("cuDevicePrimaryCtxRelease", _device(ordinal))


def free_bytes() -> int:
    """Memory of the device of the current context that nothing uses."""
    free, _ = call("cuMemGetInfo")
    return int(free)


# --- cudaMalloc and its IPC handle (a context must be current) ---------------------------------------------------


def allocate(size: int) -> int:
    """Plain device memory; returns the pointer."""
    return int(call("cuMemAlloc", size))


def free(pointer: int) -> None:
    """Free what ``allocate`` gave."""
    call("cuMemFree", bindings().CUdeviceptr(pointer))


def base_of(pointer: int) -> int:
    """Start of the driver's allocation that holds a pointer: what an IPC handle opens."""
    base, _ = call("cuMemGetAddressRange", bindings().CUdeviceptr(pointer))
    return int(base)


def ipc_export(pointer: int) -> bytes:
    """The IPC handle, 64 bytes, for any other process of this host."""
    handle = call("cuIpcGetMemHandle", bindings().CUdeviceptr(pointer))
    return ctypes.string_at(int(handle.getPtr()), IPC_HANDLE_BYTES)


def ipc_open(raw: bytes) -> int:
    """Map another process's allocation; returns the pointer to its start."""
    assert len(raw) == IPC_HANDLE_BYTES, f"an IPC handle of {len(raw)} bytes"
    driver = bindings()
    handle = driver.CUipcMemHandle()
    ctypes.memmove(int(handle.getPtr()), raw, IPC_HANDLE_BYTES)  # works in all versions; the field's name does not
    flags = driver.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
    return int(call("cuIpcOpenMemHandle", handle, int(flags)))


def ipc_close(pointer: int) -> None:
    """Unmap what ``ipc_open`` gave."""
    call("cuIpcCloseMemHandle", bindings().CUdeviceptr(pointer))


# --- virtual memory management with file descriptors -------------------------------------------------------------


def vmm_granularity(ordinal: int) -> int:
    """Bytes of which an allocation must be a multiple."""
    option = bindings().CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
    return int(call("cuMemGetAllocationGranularity", _properties(ordinal), option))


def vmm_create(ordinal: int, size: int) -> Any:
    """Device memory that can become a file descriptor; returns the driver's handle, to be released."""
    return call("cuMemCreate", size, _properties(ordinal), 0)


def vmm_export(ordinal: int, size: int) -> int:
    """Make device memory and return the file descriptor that alone keeps it; close it to free the memory.

    No context is needed, as far as the driver's documentation goes; a driver that asks for one all the same is given
    the primary one, for these calls. The memory lives until every copy of the descriptor is closed and every mapping
    is undone.
    """
    try:
        return _vmm_export(ordinal, size)
    except CudaError as exc:
        if exc.code != NO_CONTEXT:
            raise
    enter(ordinal)
    try:
        return _vmm_export(ordinal, size)
    finally:
        leave(ordinal)


def _vmm_export(ordinal: int, size: int) -> int:
    handle = vmm_create(ordinal, size)
    try:
        return int(call("cuMemExportToShareableHandle", handle, _fd_type(), 0))
    finally:
        call("cuMemRelease", handle)


def vmm_check(fd: int) -> None:
    """Raise CudaError unless there is device memory behind a descriptor."""
    call("cuMemRelease", call("cuMemImportFromShareableHandle", fd, _fd_type()))


def vmm_map(ordinal: int, fd: int, size: int, *, read_only: bool = False) -> int:
    """Map the memory behind a descriptor; returns the pointer. The caller closes ``fd``."""
    handle = call("cuMemImportFromShareableHandle", fd, _fd_type())
    try:
        pointer = call("cuMemAddressReserve", size, 0, 0, 0)
        try:
            call("cuMemMap", pointer, size, 0, handle, 0)
            _set_access(ordinal, pointer, size, read_only=read_only)
        except CudaError:
            _undo(pointer, size)
            raise
    finally:
        call("cuMemRelease", handle)  # the mapping keeps the memory from here on
    return int(pointer)


def vmm_protect(ordinal: int, pointer: int, size: int) -> None:
    """Let nothing of this process write any more to what ``vmm_map`` mapped."""
    _set_access(ordinal, bindings().CUdeviceptr(pointer), size, read_only=True)


def _set_access(ordinal: int, pointer: Any, size: int, *, read_only: bool) -> None:
    flags = bindings().CUmemAccess_flags
    access = bindings().CUmemAccessDesc()
    access.location = _properties(ordinal).location
    access.flags = flags.CU_MEM_ACCESS_FLAGS_PROT_READ if read_only else flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    call(SET_ACCESS, pointer, size, [access], 1)


def vmm_unmap(pointer: int, size: int) -> None:
    """Undo ``vmm_map``."""
    address = bindings().CUdeviceptr(pointer)
    call("cuMemUnmap", address, size)
    call("cuMemAddressFree", address, size)


def _undo(pointer: Any, size: int) -> None:
    """After a failed ``cuMemMap`` or ``cuMemSetAccess``: whichever of the two succeeded is taken back."""
    for name in ("cuMemUnmap", "cuMemAddressFree"):
        try:
            call(name, pointer, size)
        except CudaError:
            continue  # the first error is the one that is told


def _properties(ordinal: int) -> Any:
    driver = bindings()
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.requestedHandleTypes = _fd_type()
    location = driver.CUmemLocation()
    location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    location.id = ordinal
    properties.location = location
    return properties


def _fd_type() -> Any:
    return bindings().CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
