"""cpu_call: how the compiled CPU kernels are called.

Each is called with one pointer to a structure and a number of threads. A structure holds the pointers, then 64-bit
numbers. Those of the two kernels for attention (``cpu_decode``, ``cpu_tiles``) begin with the same of each and end with
what is done to the scores. The kernels trust addresses blindly, so all their tensors are checked here first.

Both work on the rows' states: see ``attention.h``, which is why either may go on where the other has stopped.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import torch

WIDTHS = (16, 32, 48, 64, 80, 96, 128, 256)
KEYS = 64  # of attention.h: a row's state may be left and taken up at multiples of this position
ATTENTION_POINTERS = ("query", "keys", "values", "out", "top", "total", "sinks", "table")
ATTENTION_NUMBERS = (
    "query_kv_stride", "query_group_stride", "query_row_stride", "plane_stride", "out_stride", "out_row_stride",
    "state_stride", "kv_heads", "group", "width", "block_size", "items",
)  # fmt: skip

SCORES = (("factor", ctypes.c_float), ("cap", ctypes.c_float))


@dataclass(frozen=True, slots=True)
class RowStates:
    """What is known of each row's attention so far, of all query heads; float32.

    Attributes:
        out: [kv_heads, T, group, d] values not yet divided by ``total``; of a row that has seen all its keys, its
            result.
        top: [kv_heads, T, group] the largest score, in base 2.
        total: [kv_heads, T, group] the sum of weights ``2 ** (score - top)``.
    """

    out: torch.Tensor
    top: torch.Tensor
    total: torch.Tensor

    @classmethod
    def of(cls, query: torch.Tensor) -> RowStates:
        """Room for those of ``query`` [kv_heads, group, T, d]; in memory ``out`` is [T, kv_heads, group, d]."""
        kv_heads, group, rows, width = query.shape
        out = torch.empty((rows, kv_heads, group, width)).transpose(0, 1)
        return cls(out, *torch.empty((2, kv_heads, rows, group)).unbind())


def score_numbers(scale: float, softcap: float | None) -> tuple[float, float]:
    """The values of ``SCORES``, in base 2."""
    return scale * math.log2(math.e), (softcap or 0.0) * math.log2(math.e)


def base2(sinks: torch.Tensor | None, heads: int) -> torch.Tensor | None:
    """Natural logits [heads] as the kernels read them. Raises ValueError for another number of them."""
    if sinks is None:
        return None
    if sinks.shape != (heads,):
        raise ValueError(f"{tuple(sinks.shape)} sinks for {heads} heads")
    return (sinks.float() * math.log2(math.e)).contiguous()


def addresses(*tensors: torch.Tensor | None) -> tuple[int | None, ...]:
    """Where each begins; None is a null pointer."""
    return tuple(None if tensor is None else tensor.data_ptr() for tensor in tensors)


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
    return structure((*ATTENTION_POINTERS, *pointers), (*ATTENTION_NUMBERS, *numbers), *SCORES)


def attention_numbers(query: torch.Tensor, keys: torch.Tensor, states: RowStates, items: int) -> tuple[int, ...]:
    """The values of ``ATTENTION_NUMBERS``, of tensors that ``check_attention`` let pass."""
    kv_heads, group, _, width = query.shape
    strides = (*query.stride()[:3], keys.stride(0), *states.out.stride()[:2], states.top.stride(0))
    return (*strides, kv_heads, group, width, keys.shape[2], items)


def check_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, states: RowStates) -> None:
    """Raise ValueError unless the kernels can use these: they trust addresses blindly, and what is wrong here would
    read or write foreign memory."""
    kv_heads, group, rows, width = query.shape
    out, top, total = states.out, states.top, states.total
    if width not in WIDTHS or any(x.dtype != torch.float32 for x in (query, keys, values, out, top, total)):
        raise ValueError(f"the CPU kernels know float32 and head dimensions {WIDTHS}, not {query.dtype} and {width}")
    if keys.dim() != 4 or keys.shape != values.shape or keys.stride() != values.stride() or keys.shape[0] != kv_heads:
        raise ValueError(
            f"keys {tuple(keys.shape)} and values {tuple(values.shape)}: expected ({kv_heads}, any, any, d)"
        )
    if keys.shape[3] != width or not keys[0].is_contiguous() or query.stride(3) != 1:
        raise ValueError("each head's blocks must be one contiguous matrix of slots, and queries contiguous in d")
    if out.shape != (kv_heads, rows, group, width) or out.stride()[2:] != (width, 1):
        raise ValueError(
            f"out {tuple(out.shape)} with strides {out.stride()}: expected {(kv_heads, rows, group, width)}"
        )
    if any(x.shape != out.shape[:3] or x.stride() != (rows * group, group, 1) for x in (top, total)):
        raise ValueError(f"top and total {tuple(top.shape)}, {tuple(total.shape)}: expected {tuple(out.shape[:3])}")


def check_arrays(each: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> None:
    """Raise ValueError unless all are contiguous int64, and those in ``each`` have one entry an item."""
    if any(x.dtype != torch.int64 or not x.is_contiguous() for x in (*each, *others)):
        raise ValueError("the items' arrays must be contiguous int64")
    if len({len(x) for x in each}) != 1:
        raise ValueError("the items' arrays differ in length")
