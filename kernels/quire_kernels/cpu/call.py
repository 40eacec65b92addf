"""cpu_call: how the compiled CPU kernels are called.

Each is called with one pointer to a structure and a number of threads. A structure holds the pointers, then 64-bit
numbers. Those of the two kernels for attention (``cpu_decode``, ``cpu_tiles``) begin with the same of each and end with
what is done to the scores. The kernels trust addresses blindly, so all their tensors are checked here first.

Both work on the rows' states: see ``attention.h``, which is why either may go on where the other has stopped.

The layers of a step differ in addresses only. So a call of attention or of ``cpu_write`` is checked and laid out once
(``AttentionCall``, ``WriteCall``), and a layer fills in where its tensors lie.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import torch

from .host_library import load

WIDTHS = (16, 32, 48, 64, 80, 96, 128, 256)
KEYS = 64  # of attention.h: a row's state may be left and taken up at multiples of this position
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}  # of arenas, and what kernels' names end with
ATTENTION_POINTERS = ("query", "keys", "values", "result", "out", "top", "total", "sinks", "table")
ATTENTION_NUMBERS = (
    "query_kv_stride", "query_group_stride", "query_row_stride", "plane_stride", "out_stride", "out_row_stride",
    "state_stride", "kv_heads", "group", "width", "block_size", "items",
)  # fmt: skip

SCORES = (("factor", ctypes.c_float), ("cap", ctypes.c_float))


@dataclass(frozen=True, slots=True)
class RowStates:
    """What is known of each row's attention so far, of all query heads; float32. The layers of a step may share one.

    Attributes:
        out: [kv_heads, T, group, d] values not yet divided by ``total``, of rows that have not seen all their keys.
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


class AttentionCall:
    """One call of a kernel, for queries, keys, values and results of one form, wherever they lie.

    Args:
        name: of the kernel, without its dtype.
        arguments: its structure, in which the addresses of these are still missing.
        dtype: of them.
        kept: what the structure has addresses of, which must live as long.
        threads: how many work at once.

    Raises:
        NoHostLibrary: the kernel cannot be compiled here.
    """

    def __init__(
        self, name: str, arguments: ctypes.Structure, dtype: torch.dtype, kept: tuple[Any, ...], threads: int
    ) -> None:
        self._function = getattr(load(), f"quire_cpu_{name}_{DTYPES[dtype]}")
        self._arguments, self._reference, self._kept = arguments, ctypes.byref(arguments), kept
        self._threads = ctypes.c_int64(threads)

    def run(self, query: int, keys: int, values: int, result: int, sinks: int | None) -> None:
        """Compute, with tensors at these addresses. They are trusted: the caller has seen to the form, and keeps them
        alive."""
        arguments = self._arguments
        arguments.query, arguments.keys, arguments.values = query, keys, values
        arguments.result, arguments.sinks = result, sinks
        self._function(self._reference, self._threads)


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
    if width not in WIDTHS or query.dtype not in DTYPES or {keys.dtype, values.dtype} != {query.dtype}:
        raise ValueError(
            f"the CPU kernels know {' and '.join(DTYPES.values())} and head dimensions {WIDTHS}, not queries of"
            f" {query.dtype}, keys of {keys.dtype}, values of {values.dtype} and {width}"
        )
    if any(x.dtype != torch.float32 for x in (out, top, total)):
        raise ValueError("rows' states are float32")
    if keys.dim() != 4 or keys.shape != values.shape or keys.stride() != values.stride() or keys.shape[0] != kv_heads:
        raise ValueError(
            f"keys {tuple(keys.shape)} and values {tuple(values.shape)}: expected ({kv_heads}, any, any, d)"
        )
    if keys.shape[3] != width or not keys[0].is_contiguous() or query.stride(3) != 1:
        raise ValueError("each head's blocks must be one contiguous matrix of slots, and queries contiguous in d")
    if out.shape != (kv_heads, rows, group, width) or not out.transpose(0, 1).is_contiguous():
        raise ValueError(
            f"out {tuple(out.shape)} with strides {out.stride()}: expected {(kv_heads, rows, group, width)}"
        )
    if any(x.shape != out.shape[:3] or x.stride() != (rows * group, group, 1) for x in (top, total)):
        raise ValueError(f"top and total {tuple(top.shape)}, {tuple(total.shape)}: expected {tuple(out.shape[:3])}")


def check_result(result: torch.Tensor, query: torch.Tensor) -> None:
    """Raise ValueError unless results can be written there: [kv_heads, T, group, d], in memory [T, kv_heads, ...]."""
    kv_heads, group, rows, width = query.shape
    if result.shape != (kv_heads, rows, group, width) or result.dtype != query.dtype:
        raise ValueError(f"result {tuple(result.shape)} of {result.dtype} for queries {tuple(query.shape)}")
    if not result.transpose(0, 1).is_contiguous():
        raise ValueError("the heads' results must lie side by side")


def check_arrays(each: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> None:
    """Raise ValueError unless all are contiguous int64, and those in ``each`` have one entry an item."""
    if any(x.dtype != torch.int64 or not x.is_contiguous() for x in (*each, *others)):
        raise ValueError("the items' arrays must be contiguous int64")
    if len({len(x) for x in each}) != 1:
        raise ValueError("the items' arrays differ in length")
