"""copy_blocks: copy-on-write and scrubbing of whole blocks, all layers in one launch.

A row (src, dst, slots) copies the first ``slots`` slots of block ``src`` to block ``dst``, in K and V of every layer
and head. ``src`` -1 scrubs instead: the slots become zero. One program does one row in one plane of the arena.

Invariants: slots from ``slots`` on are neither read nor written, for another sequence may write them next; the
bits are copied, so any dtype and any NaN survive. Within one launch no ``dst`` may be another row's ``src`` or
``dst``: rows run in any order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels.checks import check, check_device

SAME_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


@triton.jit
def _kernel(
    arena: tl.tensor,  # (layer, kv, head, block, slot, d), integers
    copies: tl.tensor,  # [capacity, 3]
    count: tl.tensor,  # [1] rows of ``copies`` that are meant
    kvs: tl.tensor,
    heads: tl.tensor,
    stride_layer: tl.tensor,
    stride_kv: tl.tensor,
    stride_head: tl.tensor,
    stride_block: tl.tensor,
    stride_slot: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    if row >= tl.load(count):
        return
    src = tl.load(copies + row * 3).to(tl.int64)
    dst = tl.load(copies + row * 3 + 1).to(tl.int64)
    slots = tl.load(copies + row * 3 + 2)
    plane = tl.program_id(1)
    base = (plane // (kvs * heads)).to(tl.int64) * stride_layer
    base += (plane // heads % kvs).to(tl.int64) * stride_kv + (plane % heads).to(tl.int64) * stride_head

    slot = tl.arange(0, BLOCK_SIZE)
    column = tl.arange(0, HEAD_PAD)
    mask = (slot < slots)[:, None] & (column < HEAD_DIM)[None, :]
    source = (slot < tl.where(src >= 0, slots, 0))[:, None] & (column < HEAD_DIM)[None, :]
    inner = slot[:, None] * stride_slot + column[None, :]
    bits = tl.load(arena + base + src * stride_block + inner, mask=source, other=0)
    tl.store(arena + base + dst * stride_block + inner, bits, mask=mask)


def copy_blocks(arena: torch.Tensor, copies: torch.Tensor, count: torch.Tensor) -> None:
    """Do the first ``count`` rows of ``copies``.

    Args:
        arena: (layer, kv, head, block, slot, d), any dtype of 1, 2 or 4 bytes.
        copies: [capacity, 3] int32 rows (src or -1, dst, slots), contiguous.
        count: [1] int32 on the device, so that a captured launch can be refilled.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    arguments = copy_arguments(arena, copies, count)
    check_device(arena=arena, copies=copies, count=count)
    layers, kvs, heads = arena.shape[:3]
    if copies.shape[0]:
        _kernel[(copies.shape[0], layers * kvs * heads)](**arguments, num_warps=4)


def copy_arguments(arena: torch.Tensor, copies: torch.Tensor, count: torch.Tensor) -> dict[str, Any]:
    """Checked arguments of the kernel, by name."""
    check("arena", arena, (None,) * 6)
    check("copies", copies, (None, 3), torch.int32)
    check("count", count, (1,), torch.int32)
    if arena.element_size() not in SAME_BITS:
        raise ValueError(f"arena has dtype {arena.dtype}, expected one of 1, 2 or 4 bytes")
    if not copies.is_contiguous():
        raise ValueError(f"copies have strides {copies.stride()}, expected contiguous rows")
    _, kvs, heads, _, block_size, width = arena.shape
    if block_size & (block_size - 1):
        raise ValueError(f"block size {block_size} is not a power of two")
    return {
        "arena": arena.view(SAME_BITS[arena.element_size()]),
        "copies": copies,
        "count": count,
        "kvs": kvs,
        "heads": heads,
        "stride_layer": arena.stride(0),
        "stride_kv": arena.stride(1),
        "stride_head": arena.stride(2),
        "stride_block": arena.stride(3),
        "stride_slot": arena.stride(4),
        "HEAD_DIM": width,
        "HEAD_PAD": triton.next_power_of_2(width),
        "BLOCK_SIZE": block_size,
    }


def copy_blocks_ref(arena: torch.Tensor, copies: torch.Tensor, count: torch.Tensor) -> None:
    """:func:`copy_blocks` in PyTorch."""
    bits = arena.view(SAME_BITS[arena.element_size()])
    for src, dst, slots in copies[: int(count)].tolist():
        bits[:, :, :, dst, :slots] = bits[:, :, :, src, :slots] if src >= 0 else 0
