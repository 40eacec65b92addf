"""cpu_write: a step's keys and values into their slots of the arena, on a CPU; the compiled loop is in ``write.c``.

PyTorch's ``index_copy_`` does the same for one of the two at a time, and takes far longer to begin than to copy the few
rows of a decode.
"""

from __future__ import annotations

import ctypes

import torch

from .call import structure
from .host_library import load

# write_args of the C source
_Arguments = structure(
    ("key", "value", "keys", "values", "slots"),
    (
        "key_head_stride", "key_row_stride", "value_head_stride", "value_row_stride", "plane_stride",
        "kv_heads", "width", "rows", "capacity",
    ),
)  # fmt: skip


def cpu_write(
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    threads: int = 1,
) -> None:
    """Store keys and values of T tokens.

    Args:
        key, value: [kv_heads, T, d] float32, contiguous in d.
        keys, values: (kv_head, block, slot, d) of one layer, float32, each head contiguous.
        slots: [T] int64, all different: block * block size + place in the block.
        threads: how many work at once.

    Raises:
        ValueError: shapes, dtypes or strides it does not know, or a slot outside the arena; nothing is written then.
        NoHostLibrary: it cannot be compiled here.
    """
    kv_heads, rows, width = key.shape
    if any(x.dtype != torch.float32 for x in (key, value, keys, values)) or slots.dtype != torch.int64:
        raise ValueError("keys and values must be float32, and slots int64")
    if value.shape != key.shape or slots.shape != (rows,) or not slots.is_contiguous():
        raise ValueError(f"key {tuple(key.shape)}, value {tuple(value.shape)}, slots {tuple(slots.shape)}")
    if (key.stride(2), value.stride(2)) != (1, 1) or keys.shape != values.shape or keys.stride() != values.stride():
        raise ValueError("key and value must be contiguous in d, keys and values of one form")
    if keys.dim() != 4 or (keys.shape[0], keys.shape[3]) != (kv_heads, width) or not keys[0].is_contiguous():
        raise ValueError(f"keys {tuple(keys.shape)}: expected ({kv_heads}, any, any, {width}), each head contiguous")
    pointed = (key, value, keys, values, slots)
    strides = (*key.stride()[:2], *value.stride()[:2], keys.stride(0))
    capacity = keys.shape[1] * keys.shape[2]
    arguments = _Arguments(*(x.data_ptr() for x in pointed), *strides, kv_heads, width, rows, capacity)
    if load().quire_cpu_write(ctypes.byref(arguments), ctypes.c_int64(threads)):
        raise ValueError(f"a slot outside 0..{capacity - 1}")
