"""write_kv: the keys and values of a packed batch into their slots of the arena.

One program stores a few tokens of one KV head. A slot of -1 means "not stored": padded rows of a captured graph and
tokens of another sequence. With e4m3 arenas, values are divided by their head's scale and clamped to the largest
finite number (448) before rounding.

Invariant: nothing but the named slots is written. Slots are unique within a batch.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels.checks import FLOATS, FP8, check, check_device, check_kv, interpreting

from .softmax_body import store_as

TOKENS = 16  # tokens of a program


@triton.jit
def _kernel(
    key: tl.tensor,  # [kv_heads, T, d]
    value: tl.tensor,
    keys: tl.tensor,  # [kv_heads, blocks, slots, d]
    values: tl.tensor,
    slots: tl.tensor,  # [T]
    k_scale: tl.tensor,  # [kv_heads] or None
    v_scale: tl.tensor,
    tokens: tl.tensor,
    stride_kh: tl.tensor,
    stride_kt: tl.tensor,
    stride_vh: tl.tensor,
    stride_vt: tl.tensor,
    stride_head: tl.tensor,
    stride_block: tl.tensor,
    stride_slot: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> None:
    token = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, HEAD_PAD)
    slot = tl.load(slots + token, mask=token < tokens, other=-1).to(tl.int64)
    mask = (slot >= 0)[:, None] & (column < HEAD_DIM)[None, :]
    place = head * stride_head + (slot // BLOCK_SIZE) * stride_block + (slot % BLOCK_SIZE) * stride_slot
    target = place[:, None] + column[None, :]

    k = tl.load(key + head * stride_kh + token[:, None] * stride_kt + column[None, :], mask=mask, other=0.0)
    v = tl.load(value + head * stride_vh + token[:, None] * stride_vt + column[None, :], mask=mask, other=0.0)
    if k_scale is not None:
        # An exact quotient: `/` may be off by two units in the last place, and then rounds to another e4m3 number.
        k = tl.div_rn(k.to(tl.float32), tl.load(k_scale + head))
        v = tl.div_rn(v.to(tl.float32), tl.load(v_scale + head))
        k = store_as(_clamp(k), keys.dtype.element_ty, INTERPRET)
        v = store_as(_clamp(v), keys.dtype.element_ty, INTERPRET)
    tl.store(keys + target, k, mask=mask)
    tl.store(values + target, v, mask=mask)


@triton.jit
def _clamp(x: tl.tensor) -> tl.tensor:
    """Into the finite range of e4m3; NaN stays NaN."""
    return tl.where(x > 448.0, 448.0, tl.where(x < -448.0, -448.0, x))


def write_kv(
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> None:
    """Store ``key`` and ``value``, each [kv_heads, T, d], in slots of ``keys`` and ``values``.

    Args:
        keys, values: one layer of the arena, each [kv_heads, blocks, block_size, d].
        slots: [T] int32 or int64, ``block * block_size + offset``; -1 to skip the token.
        k_scale, v_scale: [kv_heads] float32, needed if the arena is e4m3 and not allowed otherwise.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    arguments = write_arguments(key, value, keys, values, slots, k_scale, v_scale)
    check_device(key=key, value=value, keys=keys, values=values, slots=slots, k_scale=k_scale, v_scale=v_scale)
    if key.shape[1]:
        _kernel[(triton.cdiv(key.shape[1], TOKENS), key.shape[0])](**arguments, num_warps=4)


def write_arguments(
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
) -> dict[str, Any]:
    """Checked arguments of the kernel, by name."""
    check_kv(keys, values)
    heads, _, block_size, width = keys.shape
    check("key", key, (heads, None, width), *FLOATS)
    check("value", value, tuple(key.shape), key.dtype)
    check("slots", slots, (key.shape[1],), torch.int32, torch.int64)
    check_scales(keys, k_scale, v_scale)
    if keys.dtype != FP8 and keys.dtype != key.dtype:
        raise ValueError(f"key has dtype {key.dtype}, the arena holds {keys.dtype}")
    return {
        "key": key,
        "value": value,
        "keys": keys,
        "values": values,
        "slots": slots,
        "k_scale": k_scale,
        "v_scale": v_scale,
        "tokens": key.shape[1],
        "stride_kh": key.stride(0),
        "stride_kt": key.stride(1),
        "stride_vh": value.stride(0),
        "stride_vt": value.stride(1),
        "stride_head": keys.stride(0),
        "stride_block": keys.stride(1),
        "stride_slot": keys.stride(2),
        "HEAD_DIM": width,
        "HEAD_PAD": triton.next_power_of_2(width),
        "BLOCK_SIZE": block_size,
        "BLOCK_T": TOKENS,
        "INTERPRET": interpreting(),
    }


def check_scales(keys: torch.Tensor, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None) -> None:
    """An e4m3 arena has both scales, [kv_heads] float32; any other has none."""
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if (scale is None) == (keys.dtype == FP8):
            raise ValueError(f"{name} is {'missing' if scale is None else 'given'} for an arena of {keys.dtype}")
        if scale is not None:
            check(name, scale, (keys.shape[0],), torch.float32)


def write_kv_ref(
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> None:
    """:func:`write_kv` in PyTorch."""
    stored = slots >= 0
    block, offset = slots[stored].long() // keys.shape[2], slots[stored].long() % keys.shape[2]
    for source, target, scale in ((key, keys, k_scale), (value, values, v_scale)):
        rows = source[:, stored]
        if scale is not None:
            rows = (rows.float() / scale[:, None, None]).clamp(-448, 448)
        target[:, block, offset] = rows.to(target.dtype)
