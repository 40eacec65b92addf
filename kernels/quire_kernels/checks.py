"""Checks of tensors that every launcher makes before it hands addresses to a kernel.

A kernel trusts shapes and strides blindly: what is wrong here would otherwise read or write foreign memory. Every
check raises ValueError with the argument's name, what it is and what it should be.
"""

from __future__ import annotations

import torch
import triton

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
FP8 = torch.float8_e4m3fn
FP8_SINCE = (8, 9)  # compute capability


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the host."""
    return bool(triton.knobs.runtime.interpret)


def check_device(**tensors: torch.Tensor | None) -> None:
    """All tensors on one device, which must be a GPU unless kernels are interpreted."""
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        raise ValueError(f"tensors lie on different devices: {devices}")
    kind = next(iter(devices.values())).type
    if kind == "cpu" and not interpreting():
        raise ValueError("tensors lie in host memory: set TRITON_INTERPRET=1 before Triton is imported, or use a GPU")


def check(name: str, tensor: torch.Tensor, shape: tuple[int | None, ...], *dtypes: torch.dtype) -> None:
    """Shape (None: any size), dtype, and elements of the last axis next to each other."""
    wanted = tuple("any" if size is None else size for size in shape)
    if tensor.dim() != len(shape) or any(w not in (None, s) for w, s in zip(shape, tensor.shape, strict=True)):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {wanted}")
    if dtypes and tensor.dtype not in dtypes:
        raise ValueError(f"{name} has dtype {tensor.dtype}, expected {' or '.join(map(str, dtypes))}")
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name} has stride {tensor.stride(-1)} in its last axis, expected 1")


def check_kv(keys: torch.Tensor, values: torch.Tensor) -> None:
    """Keys and values of one layer: (kv_head, block, slot, d), the same dtype and strides, block size 16, 32 or 64."""
    check("keys", keys, (None, None, None, None), *FLOATS, FP8)
    check("values", values, tuple(keys.shape), keys.dtype)
    if keys.stride() != values.stride():
        raise ValueError(f"keys have strides {keys.stride()} and values {values.stride()}: they must be equal")
    if keys.shape[2] not in (16, 32, 64):
        raise ValueError(f"block size {keys.shape[2]} is none of 16, 32, 64")
    if not 16 <= keys.shape[3] <= 256:
        raise ValueError(f"head_dim {keys.shape[3]} is not between 16 and 256")
    major, minor = compute_capability(keys.device)
    if keys.dtype == FP8 and (major, minor) < FP8_SINCE:
        raise ValueError(f"e4m3 keys and values need compute capability 8.9, this device has {major}.{minor}")


def compute_capability(device: torch.device) -> tuple[int, int]:
    """Compute capability; a host (interpreter) or meta device (compilation ahead of time) can do everything."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (99, 0)
