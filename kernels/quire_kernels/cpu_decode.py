"""cpu_decode: attention of single query rows over the arena on a CPU; the compiled loop is in ``cpu_decode.c``.

Each item is one query row (all its heads) against one run of blocks of one sequence: a decode, or what a decode has
beyond a shared prefix. Blocks are read in place, whatever their order. Its result is a partial one with base-2
log-sum-exp, as every other attention call gives.

Several threads share the items; the interpreter's lock is not held while they work.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import torch

from .host_library import load

WIDTHS = (16, 32, 48, 64, 80, 96, 128, 256)
_POINTERS = ("query", "keys", "values", "out", "lse", "table", "row", "table_start", "kv_start", "kv_len", "place")
_NUMBERS = (
    "query_kv_stride", "query_group_stride", "query_row_stride", "plane_stride", "out_stride", "lse_stride",
    "kv_heads", "group", "width", "block_size", "items",
)  # fmt: skip


class _Arguments(ctypes.Structure):
    """``decode_args`` of the C source."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _NUMBERS),
        ("factor", ctypes.c_float),
    ]


@dataclass(frozen=True, slots=True)
class RowItems:
    """Items of one step, int64 tensors of [items] unless said otherwise.

    Attributes:
        row: query row of each item.
        table_start: where its run begins in ``table``.
        kv_start: position of its first key; ``kv_start % block_size`` slots of the run's first block are skipped.
        kv_len: number of keys, at least 1.
        place: where its partial result goes.
        table: [entries] block ids of all sequences.
    """

    row: torch.Tensor
    table_start: torch.Tensor
    kv_start: torch.Tensor
    kv_len: torch.Tensor
    place: torch.Tensor
    table: torch.Tensor


def supports(arena: torch.Tensor) -> bool:
    """Whether this arena's dtype and head dimension are ones the kernel knows; ``load`` says if it is there."""
    return arena.dtype == torch.float32 and arena.shape[5] in WIDTHS


def cpu_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    items: RowItems,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    threads: int = 1,
) -> None:
    """Write the partial result of every item to its place.

    Args:
        query: [kv_heads, group, T, d] float32.
        keys, values: (kv_head, block, slot, d) of one layer, float32, each head contiguous.
        items: what to compute.
        out: [kv_heads, places, group, d] float32, contiguous in its last two axes.
        lse: [kv_heads, places, group] float32, base 2.
        scale: factor on the scores.
        threads: how many work at once.

    Raises:
        ValueError: shapes, dtypes or strides the kernel does not know.
        NoHostLibrary: the kernel cannot be compiled here.
    """
    check_places(query, keys, values, out, lse)
    each = (items.row, items.table_start, items.kv_start, items.kv_len, items.place)
    check_arrays(each, (items.table,))
    pointed = (query, keys, values, out, lse, items.table, *each)
    kv_heads, group, _, width = query.shape
    strides = (*query.stride()[:3], keys.stride(0), out.stride(0), lse.stride(0))
    numbers = (*strides, kv_heads, group, width, keys.shape[2], len(items.row))
    arguments = _Arguments(*(x.data_ptr() for x in pointed), *numbers, scale * math.log2(math.e))
    load().quire_cpu_decode(ctypes.byref(arguments), ctypes.c_int64(threads))


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
    if out.shape[2:] != (group, width) or out.stride()[1:] != (group * width, width, 1):
        raise ValueError(f"out {tuple(out.shape)} with strides {out.stride()}: expected [.., places, {group}, {width}]")
    if lse.shape != out.shape[:3] or lse.stride()[1:] != (group, 1):
        raise ValueError(f"lse {tuple(lse.shape)} with strides {lse.stride()}: expected {tuple(out.shape[:3])}")


def check_arrays(each: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> None:
    """Raise ValueError unless all are contiguous int64, and those in ``each`` have one entry an item."""
    if any(x.dtype != torch.int64 or not x.is_contiguous() for x in (*each, *others)):
        raise ValueError("the items' arrays must be contiguous int64")
    if len({len(x) for x in each}) != 1:
        raise ValueError("the items' arrays differ in length")


def cpu_decode_ref(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, items: RowItems, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain PyTorch: (out [kv_heads, items, group, d], base-2 lse [kv_heads, items, group])."""
    size = keys.shape[2]
    outs, lses = [], []
    for row, start, first, count in zip(items.row, items.table_start, items.kv_start, items.kv_len, strict=True):
        token = int(first) % size + torch.arange(int(count))
        block = items.table[int(start) + token // size]
        k, v = (x[:, block, token % size] for x in (keys, values))
        scores = torch.einsum("hgd,hnd->hgn", query[:, :, int(row)], k) * scale
        outs.append(scores.softmax(-1) @ v)
        lses.append(scores.logsumexp(-1) * math.log2(math.e))
    return torch.stack(outs, 1), torch.stack(lses, 1)
