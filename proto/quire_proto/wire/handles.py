"""Arena handles: how a process finds the memory it is to map, as a tagged union.

``shm`` is host memory; ``cuda-ipc`` and ``cuda-vmm-fd`` are device memory. Each has a ``kind``: ``kv`` for the
block pool, later also ``weights``. A client that does not know a type refuses it by name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShmHandle:
    """POSIX shared memory: ``shm_open(name)``, ``size`` bytes, the arena at ``offset``."""

    name: str
    size: int
    offset: int = 0
    kind: str = "kv"
    type: str = "shm"


@dataclass(frozen=True, slots=True)
class CudaIpcHandle:
    """Memory of cudaMalloc by its 64-byte IPC handle."""

    handle: bytes
    size: int
    gpu_uuid: str
    driver_version: int
    cuda_version: int
    offset: int = 0
    kind: str = "kv"
    type: str = "cuda-ipc"


@dataclass(frozen=True, slots=True)
class CudaVmmFdHandle:
    """Memory of cuMemCreate; the file descriptor comes over the side socket."""

    size: int
    gpu_uuid: str
    driver_version: int
    cuda_version: int
    offset: int = 0
    kind: str = "kv"
    type: str = "cuda-vmm-fd"


Handle = ShmHandle | CudaIpcHandle | CudaVmmFdHandle
