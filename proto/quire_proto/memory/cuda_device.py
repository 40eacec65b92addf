"""Which GPU, and whether its memory can be shared between processes: probes, never a platform's name.

Both sides ask the same questions. Where the answer is no, ``CudaRefused`` says what failed and what would help.
"""

from __future__ import annotations

import os
import stat
import uuid
from dataclasses import dataclass

from . import cuda_driver as driver
from .cuda_driver import NO_BINDINGS, NO_DRIVER, CudaError

DEFAULT_COMPUTE_MODE = 0
# There where NVIDIA's driver is loaded, and in containers that were given a GPU.
CONTROL_DEVICE = "/dev/nvidiactl"
NOT_SHOWN = "CUDA_ERROR_NO_DEVICE"  # to this process: CUDA_VISIBLE_DEVICES hides it


class CudaRefused(Exception):
    """Device memory cannot be shared here; the message says why and what would help."""


class NoDevice(CudaRefused):
    """There is nothing to share: no device is shown to this process, or the host has none."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or MIG instance, as this process sees it.

    Attributes:
        ordinal: its number in this process.
        uuid: as nvidia-smi spells it, e.g. ``GPU-4a2c…``; the same in every process.
        total: bytes of memory.
    """

    ordinal: int
    uuid: str
    total: int


def visible() -> list[Device]:
    """The devices this process sees. Raises NoDevice; CudaRefused where one is there that cannot be used."""
    try:
        driver.initialise()
        count = driver.device_count()
    except CudaError as exc:
        if exc.code != NOT_SHOWN and os.path.exists(CONTROL_DEVICE):
            raise CudaRefused(f"there is a GPU ({CONTROL_DEVICE}), and {_why_none(exc)}") from None
        raise NoDevice(_why_none(exc)) from None
    if not count:
        raise NoDevice(
            "the CUDA driver sees no device: check nvidia-smi, CUDA_VISIBLE_DEVICES, and --gpus of the container"
        )
    return [Device(n, _spelled(n), driver.device_bytes(n)) for n in range(count)]


def find(gpu_uuid: str) -> Device:
    """The device of that UUID. Raises CudaRefused naming it and those that are here."""
    devices = visible()
    for device in devices:
        if device.uuid == gpu_uuid:
            return device
    here = ", ".join(device.uuid for device in devices)
    raise CudaRefused(
        f"the pool is on {gpu_uuid} and this process sees {here}: give kvstore and engine the same device, on MIG the "
        "same instance (CUDA_VISIBLE_DEVICES, or device_ids of the container)"
    )


def check(device: Device) -> None:
    """Refuse a device that several independent processes cannot use. Raises CudaRefused."""
    if _under_mps(device.ordinal):
        raise CudaRefused(
            f"{device.uuid} is used through MPS, where the death of a process does not prove that its GPU work ended: "
            "stop the MPS daemon (echo quit | nvidia-cuda-mps-control)"
        )
    if driver.attribute(device.ordinal, "COMPUTE_MODE") not in (None, DEFAULT_COMPUTE_MODE):
        raise CudaRefused(f"{device.uuid} admits one process only: nvidia-smi -c DEFAULT")


def _why_none(exc: CudaError) -> str:
    if exc.code == NO_BINDINGS:
        return "cuda-bindings is not installed: pip install 'quire-kv[gpu]'"
    if exc.code == NO_DRIVER:
        return (
            "no CUDA driver: install NVIDIA's driver; in a container give it the GPU (--gpus), with compute among "
            "NVIDIA_DRIVER_CAPABILITIES"
        )
    return f"no usable CUDA device ({exc}): check nvidia-smi and CUDA_VISIBLE_DEVICES"


def _spelled(ordinal: int) -> str:
    # The driver gives a MIG instance's own UUID, but not which kind of UUID it is; the name says that.
    prefix = "MIG" if " MIG " in f"{driver.device_name(ordinal)} " else "GPU"
    return f"{prefix}-{uuid.UUID(bytes=driver.device_uuid(ordinal))}"


def _under_mps(ordinal: int) -> bool:
    told = driver.attribute(ordinal, "MPS_ENABLED")
    if told is not None:
        return bool(told)
    # Drivers before 12.5 cannot say. A client finds the daemon by this pipe, so we look for it too.
    path = os.path.join(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"), "control")
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False
