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
        "kv_heads", "width", "rows",
    ),
)  # fmt: skip


class WriteCall:
    """Stores keys and values of T tokens, of one form, wherever they lie; for all layers of a step.

    Args:
        key, value: [kv_heads, T, d], contiguous in d; of these and the next two only the form counts.
        keys, values: (kv_head, block, slot, d) of one layer, dtype of ``key`` and ``value``, each head contiguous.
        slots: [T] int64, all different: block * block size + place in the block.
        threads: how many work at once.

    Raises:
        ValueError: shapes, dtypes or strides it does not know, or a slot outside the arena.
        NoHostLibrary: it cannot be compiled here.
    """

    def __init__(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
        threads: int = 1,
    ) -> None:
        kv_heads, rows, width = key.shape
        if len({x.dtype for x in (key, value, keys, values)}) != 1 or slots.dtype != torch.int64:
            raise ValueError("keys and values must be of one dtype, and slots int64")
        if value.shape != key.shape or slots.shape != (rows,) or not slots.is_contiguous():
            raise ValueError(f"key {tuple(key.shape)}, value {tuple(value.shape)}, slots {tuple(slots.shape)}")
        if (key.stride(2), value.stride(2)) != (1, 1) or keys.shape != values.shape or keys.stride() != values.stride():
            raise ValueError("key and value must be contiguous in d, keys and values of one form")
        if keys.dim() != 4 or (keys.shape[0], keys.shape[3]) != (kv_heads, width) or not keys[0].is_contiguous():
            raise ValueError(
                f"keys {tuple(keys.shape)}: expected ({kv_heads}, any, any, {width}), each head contiguous"
            )
        capacity = keys.shape[1] * keys.shape[2]
        if rows and not 0 <= int(slots.min()) <= int(slots.max()) < capacity:
            raise ValueError(f"a slot outside 0..{capacity - 1}")
        size = key.element_size()
        strides = (stride * size for stride in (*key.stride()[:2], *value.stride()[:2], keys.stride(0)))
        arguments = _Arguments(None, None, None, None, slots.data_ptr(), *strides, kv_heads, width * size, rows)
        self._function = load().quire_cpu_write
        self._arguments, self._reference, self._kept = arguments, ctypes.byref(arguments), slots
        self._threads = ctypes.c_int64(threads)

    def run(self, key: int, value: int, keys: int, values: int) -> None:
        """Store, with tensors at these addresses. They are trusted: the caller has seen to the form, and keeps them
        alive."""
        arguments = self._arguments
        arguments.key, arguments.value = key, value
        arguments.keys, arguments.values = keys, values
        self._function(self._reference, self._threads)


def cpu_write(
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    threads: int = 1,
) -> None:
    """Make a ``WriteCall`` and run it once."""
    call = WriteCall(key, value, keys, values, slots, threads)
    call.run(key.data_ptr(), value.data_ptr(), keys.data_ptr(), values.data_ptr())
