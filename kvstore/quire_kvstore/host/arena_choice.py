"""Which kind of arena: as configured, or by probe.

``auto`` takes the first that this machine can do: ``cuda-vmm-fd``, ``cuda-ipc``, ``shm``. It falls back to host memory
only where there is no GPU at all. A GPU that is there and refuses (MPS, one process only), or that this process cannot
use (no bindings, no driver), stops the start: engines made for it would find no pool they can use.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import structlog

from quire_proto.memory import cuda_device
from quire_proto.memory import cuda_driver as driver
from quire_proto.memory.cuda_device import CudaRefused, Device, NoDevice
from quire_proto.memory.cuda_driver import CudaError

from .arena import Arena, ArenaError, Roster, ShmArena
from .cuda_arena import CudaIpcArena, CudaVmmFdArena

AUTO, SHM, IPC, VMM = "auto", "shm", "cuda-ipc", "cuda-vmm-fd"
KINDS = (AUTO, SHM, IPC, VMM)
AS_CONFIGURED = "as configured (kvstore.arena)"

log = structlog.get_logger()


class ArenaChoice(NamedTuple):
    """The kind of arena to make, on which GPU (None: host memory), and why it is this one."""

    kind: str
    device: Device | None
    reason: str


def choose(wanted: str) -> ArenaChoice:
    """What the setting means on this machine. Raises ArenaError with reason and fix."""
    if wanted == SHM:
        return ArenaChoice(SHM, None, AS_CONFIGURED)
    try:
        devices = cuda_device.visible()
        device = devices[0]
        cuda_device.check(device)
        kind, reason = _probe(device) if wanted == AUTO else (wanted, AS_CONFIGURED)
    except NoDevice as exc:
        if wanted == AUTO:
            log.info("arena_chosen", arena=SHM, reason=str(exc))
            return ArenaChoice(SHM, None, f"in host memory: {exc}")
        raise ArenaError(f"kvstore.arena = {wanted}: {exc}") from None
    except (CudaRefused, CudaError) as exc:
        raise ArenaError(f"kvstore.arena = {wanted}: {exc}; or set kvstore.arena = shm") from None
    log.info("arena_chosen", arena=kind, gpu=device.uuid, visible=len(devices))
    return ArenaChoice(kind, device, reason)


def make(kind: str, device: Device | None, size: int, roster: Roster, *, reserve: bool) -> Arena:
    """An arena of that kind. Raises ArenaError."""
    if device is None:
        return ShmArena(size, roster, reserve=reserve)
    return CudaVmmFdArena(size, device) if kind == VMM else CudaIpcArena(size, device)


def _probe(device: Device) -> tuple[str, str]:
    """The first kind that works, and why: one granule is made and exported, since attributes alone promise too much."""
    try:
        os.close(driver.vmm_export(device.ordinal, driver.vmm_granularity(device.ordinal)))
    except CudaError as exc:
        log.info("arena_not_possible", arena=VMM, reason=str(exc))
        return IPC, f"on {device.uuid}, where {VMM} is not possible: {exc}"
    return VMM, f"on {device.uuid}"
