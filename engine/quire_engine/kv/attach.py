"""Attach: the arena of a session as a tensor, without a copy, and how an engine lets go of it.

On a GPU a pointer that outlives its mapping is fatal to the whole process, so the order is fixed: launch nothing more,
wait for what runs (``quiesce``), drop graphs and tensors, then close the session, which unmaps.
"""

from __future__ import annotations

import torch

from quire_kv import DeviceMemory, KVClient
from quire_proto.wire.layout import E4M3

ARENA_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    E4M3: torch.float8_e4m3fn,
}


class ContextPoisoned(Exception):
    """A kernel or the device failed: this process can use its GPU no more, only a new one can."""


def arena_of(client: KVClient) -> torch.Tensor:
    """The mapped arena as a tensor of ``client.layout.shape`` (layer, kv, head, block, slot, d)."""
    layout = client.layout
    memory = client.map()
    flat = torch.frombuffer(memory, dtype=torch.uint8) if isinstance(memory, memoryview) else wrap_memory(memory)
    return flat.view(ARENA_DTYPES[layout.dtype]).view(layout.shape(client.num_blocks))


def wrap_memory(memory: DeviceMemory) -> torch.Tensor:
    """Device memory as bytes, without a copy; the array interface knows neither bfloat16 nor fp8."""
    flat = torch.as_tensor(memory, device=f"cuda:{memory.device}")
    assert flat.data_ptr() == memory.pointer, "the arena was copied instead of wrapped"
    return flat


def gpu_uuid(device: torch.device) -> str:
    """What ``attach`` compares with the pool's GPU: the UUID of ``device``, "" for a CPU."""
    if device.type != "cuda":
        return ""
    from quire_proto.memory.cuda_device import visible

    return visible()[device.index or 0].uuid


def quiesce(device: torch.device) -> None:
    """Wait until no work of this process runs on ``device`` any more. Raises ContextPoisoned."""
    if device.type != "cuda":
        return  # on a CPU a step has ended when it returns
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as exc:
        raise ContextPoisoned(str(exc).partition("\n")[0]) from exc
