"""Memory of weights arenas: made here, or brought by a process that still maps what an earlier life made."""

from __future__ import annotations

from quire_kvstore.host.arena import Arena, ArenaError
from quire_kvstore.host.arena_choice import VMM
from quire_kvstore.host.cuda_arena import WEIGHTS, CudaIpcArena, CudaVmmFdArena, DescriptorArena
from quire_proto.memory import cuda_driver as driver
from quire_proto.memory.cuda_device import Device
from quire_proto.memory.cuda_driver import CudaError
from quire_proto.wire.handles import CudaVmmFdHandle


def make_memory(kind: str, device: Device, size: int) -> Arena:
    """An arena of that kind for weights. Raises ArenaError."""
    return CudaVmmFdArena(size, device, WEIGHTS) if kind == VMM else CudaIpcArena(size, device, WEIGHTS)


class BroughtArena(DescriptorArena):
    """Memory behind a descriptor that came from a process."""

    def __init__(self, fd: int, size: int, device: Device) -> None:
        """Take ``fd`` over. Raises ArenaError for a descriptor that is no device memory."""
        self.fd = fd
        try:
            driver.vmm_check(fd)
            self._handle = CudaVmmFdHandle(size, device.uuid, *driver.versions(), kind=WEIGHTS)
        except CudaError as exc:
            self.close()
            raise ArenaError(f"the descriptor that was brought is no device memory: {exc}") from None
