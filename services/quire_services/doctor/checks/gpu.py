"""GPUs: driver, bindings, which device this environment shows, and how its memory can be shared.

A machine has one if the driver's device nodes are there; the driver itself is asked by a child, which it may hang.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quire_services.doctor.child_answer import ChildSilent, child_answer
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.probes import gpu_probe
from quire_services.doctor.scene import Scene

NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # of Linux, and of its guest in Windows
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
CUDA_S = 10.0


def check_gpu(scene: Scene) -> Findings:
    """From the device nodes to shared memory; a machine without a GPU is as it should be."""
    nodes = [node for node in NODES if node.exists()]
    if not nodes and not DRIVER_VERSION.exists():
        yield problem(
            "gpu-absent",
            "no NVIDIA GPU: the pool is in host memory, and engines compute on the CPU",
            "nothing, if that is meant; else install the driver, or give the container the GPU (docker: --gpus all)",
        )
        return
    forbidden = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK, effective_ids=True)]
    if forbidden or not nodes:
        yield problem(
            "gpu-node-forbidden",
            f"the driver is loaded, and user {os.geteuid()} cannot use {(forbidden or NODES)[0]}",
            "give the container the GPU (docker: --gpus all), or this user the group of the device node",
            (forbidden or NODES)[0],
        )
        return
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        yield problem(
            "gpu-bindings-missing",
            "there is a GPU, and cuda-bindings is not installed: the kvstore cannot make a pool on it",
            "pip install 'quire-kv[gpu]', for kvstore and engines, or --arena=shm --attention=cpu",
            "cuda.bindings",
        )
        return
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1", "NoDevFiles"):
        yield problem(
            "gpu-hidden",
            "there is a GPU, and CUDA_VISIBLE_DEVICES hides all of them",
            "unset CUDA_VISIBLE_DEVICES, or let it name the GPU's UUID (nvidia-smi -L)",
            "CUDA_VISIBLE_DEVICES",
        )
        return
    yield from _driver(scene)


def _driver(scene: Scene) -> Findings:
    try:
        answer = child_answer(gpu_probe.__name__, CUDA_S)
    except ChildSilent as silent:
        answer = {"refused": f"the driver's probe failed: {silent}"}
    if "refused" in answer:
        yield problem(
            "gpu-unusable",
            answer["refused"],
            "see whether nvidia-smi answers; then the driver's log (dmesg | grep -i nvrm)",
            "CUDA driver",
        )
        return
    if answer["driver"] // 1000 < answer["bindings"] // 1000:
        yield problem(
            "gpu-driver-old",
            f"the driver knows CUDA {_dotted(answer['driver'])}, the bindings are of {_dotted(answer['bindings'])}",
            f"pip install 'cuda-bindings<{answer['driver'] // 1000 + 1}', or a newer driver",
            "CUDA driver",
        )
    if find_spec("triton") is None and scene.config.engine.attention != "cpu":
        yield problem(
            "triton-missing",
            "there is a GPU, and Triton is not installed: no engine can compute on it",
            "pip install 'quire-kv[gpu]', or --attention=cpu",
            "triton",
        )
    for device in answer["devices"]:
        yield from _device(device)


def _device(device: Mapping[str, Any]) -> Findings:
    uuid = str(device["uuid"])
    yield fact("gpu", f"{device['name']}, {uuid}, {device['total']:,} bytes", uuid)
    if device["refused"]:
        yield problem(
            "gpu-not-shareable",
            device["refused"],
            "stop MPS (echo quit | nvidia-cuda-mps-control), share the GPU (nvidia-smi -c DEFAULT), or --arena=shm",
            uuid,
        )
    elif device["vmm"]:
        yield problem(
            "gpu-vmm-impossible",
            f"its memory cannot go by file descriptor, so it goes by CUDA IPC: {device['vmm']}",
            "let kvstore and engines share the pid namespace; nothing to do outside of containers",
            uuid,
        )
    if uuid.startswith("MIG-"):
        yield problem(
            "gpu-mig",
            "it is a MIG instance: its memory can be shared within this instance alone",
            "give kvstore and engines the same one (CUDA_VISIBLE_DEVICES, or device_ids of the container)",
            uuid,
        )


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
