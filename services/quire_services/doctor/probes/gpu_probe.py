"""What the CUDA driver says of the GPUs that this environment shows: ``{"refused": why}``, or

    {"driver", "bindings", "devices": [{"uuid", "name", "total", "refused", "vmm"}, ...]}

``refused`` of a device: why several processes cannot use it; ``vmm``: why its memory cannot go by file descriptor.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from quire_proto.memory import cuda_device
from quire_proto.memory import cuda_driver as driver
from quire_proto.memory.cuda_device import CudaRefused, Device
from quire_proto.memory.cuda_driver import CudaError


def main() -> None:
    """Print the answer."""
    sys.stdout.write(json.dumps(_answer()) + "\n")


def _answer() -> dict[str, Any]:
    try:
        devices = cuda_device.visible()
        driver_version, bindings_version = driver.versions()
        return {"driver": driver_version, "bindings": bindings_version, "devices": [_about(each) for each in devices]}
    except (CudaRefused, CudaError) as error:
        return {"refused": str(error)}


def _about(device: Device) -> dict[str, Any]:
    return {
        "uuid": device.uuid,
        "name": driver.device_name(device.ordinal),
        "total": device.total,
        "refused": _refusal(device),
        "vmm": _vmm_refusal(device),
    }


def _refusal(device: Device) -> str:
    try:
        cuda_device.check(device)
    except (CudaRefused, CudaError) as error:
        return str(error)
    return ""


def _vmm_refusal(device: Device) -> str:
    """One granule is made and exported, as the kvstore does: attributes alone promise too much."""
    try:
        os.close(driver.vmm_export(device.ordinal, driver.vmm_granularity(device.ordinal)))
    except CudaError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
