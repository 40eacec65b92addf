"""cpu_call: how the compiled CPU kernels are called.

Each is called with one pointer to a structure and a number of threads. A structure holds the pointers, then 64-bit
numbers. Those of the two kernels for attention (``cpu_decode``, ``cpu_tiles``) begin with the same of each and end with
the factor on the scores. The kernels trust addresses blindly, so all their tensors are checked here first.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

WIDTHS = (16, 32, 48, 64, 80, 96, 128, 256)
ATTENTION_POINTERS = ("query", "keys", "values", "out", "lse", "table")
ATTENTION_NUMBERS = (
    "query_kv_stride", "query_group_stride", "query_row_stride", "plane_stride", "out_stride", "out_place_stride",
    "lse_stride", "kv_heads", "group", "width", "block_size", "items",
)  # fmt: skip


def structure(pointers: tuple[str, ...], numbers: tuple[str, ...], *others: tuple[str, Any]) -> type[ctypes.Structure]:
    """A structure of the C sources: pointers, 64-bit numbers, and ``others`` with their types."""

    class Arguments(ctypes.Structure):
        _fields_ = [
            *((name, ctypes.c_void_p) for name in pointers),
            *((name, ctypes.c_int64) for name in numbers),
            *others,
        ]

    return Arguments


def attention_structure(pointers: tuple[str, ...], numbers: tuple[str, ...] = ()) -> type[ctypes.Structure]:
    """The structure of an attention kernel, from the names that follow the ``ATTENTION_`` ones in it."""
    return structure((*ATTENTION_POINTERS, *pointers), (*ATTENTION_NUMBERS, *numbers), ("factor", ctypes.c_float))


def attention_numbers(
    query: torch.Tensor, keys: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, items: int
) -> tuple[int, ...]:
    """The values of ``ATTENTION_NUMBERS``, of tensors that ``check_places`` let pass."""
    kv_heads, group, _, width = query.shape
    strides = (*query.stride()[:3], keys.stride(0), *out.stride()[:2], lse.stride(0))
    return (*strides, kv_heads, group, width, keys.shape[2], items)


def check_places(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor, lse: torch.Tensor
) -> None:
    """Raise ValueError unless the kernels can use these: they trust addresses blindly, and what is wrong here would
    read or write foreign memory."""
    kv_heads, group, _, width = query.shape
    if width not in WIDTHS or any(x.dtype != torch.float32 for x in (query, keys, values, out, lse)):
        raise ValueError(f"the CPU kernels know float32 and head dimensions {WIDTHS}, not {query.dtype} and {width}")
    if keys.dim() != 4 or keys.shape != values.shape or keys.stride() != values.stride() or keys.shape[0] != kv_heads:
        raise ValueError(
            f"keys {tuple(keys.shape)} and values {tuple(values.shape)}: expected ({kv_heads}, any, any, d)"
        )
    if keys.shape[3] != width or not keys[0].is_contiguous() or query.stride(3) != 1:
        raise ValueError("each head's blocks must be one contiguous matrix of slots, and queries contiguous in d")
    if out.shape[2:] != (group, width) or out.stride()[2:] != (width, 1) or out.shape[0] != kv_heads:
        raise ValueError(f"out {tuple(out.shape)} with strides {out.stride()}: expected [.., places, {group}, {width}]")
    if lse.shape != out.shape[:3] or lse.stride()[1:] != (group, 1):
        raise ValueError(f"lse {tuple(lse.shape)} with strides {lse.stride()}: expected {tuple(out.shape[:3])}")


def check_arrays(each: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> None:
    """Raise ValueError unless all are contiguous int64, and those in ``each`` have one entry an item."""
    if any(x.dtype != torch.int64 or not x.is_contiguous() for x in (*each, *others)):
        raise ValueError("the items' arrays must be contiguous int64")
    if len({len(x) for x in each}) != 1:
        raise ValueError("the items' arrays differ in length")
