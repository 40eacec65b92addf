"""rotate: rotary positions of queries and keys, both in one launch.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, with the halves of a head as
the pairs that are rotated. As modelling code writes it, it is ten operations of PyTorch, two of them copies. Both
products are rounded before they are added, as there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels.checks import FLOATS, check, check_device, interpreting
from quire_kernels.gpu.softmax_body import store_as

ROTATED_TOKENS = 16  # of a program


@triton.jit
def _half(
    x: tl.tensor,
    other: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    DTYPE: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> tl.tensor:
    """``x * cos + other * sin``, rounded after each."""
    straight = store_as(x * cos, DTYPE, INTERPRET).to(tl.float32)
    crossed = store_as(other * sin, DTYPE, INTERPRET).to(tl.float32)
    return store_as(straight + crossed, DTYPE, INTERPRET)


@triton.jit
def _kernel(
    query: tl.tensor,  # [heads, T, d]
    key: tl.tensor,  # [kv_heads, T, d]
    cos: tl.tensor,  # [T, d]
    sin: tl.tensor,
    query_out: tl.tensor,  # [T, heads, d]
    key_out: tl.tensor,  # [T, kv_heads, d]
    tokens: tl.tensor,
    heads: tl.tensor,
    kv_heads: tl.tensor,
    stride_qh: tl.tensor,
    stride_qt: tl.tensor,
    stride_kh: tl.tensor,
    stride_kt: tl.tensor,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
    BLOCK_T: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> None:
    token = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)[:, None]
    head = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, HALF_PAD)[None, :]
    mask = (token < tokens) & (column < HALF)
    source = query + head * stride_qh + token * stride_qt + column
    target = query_out + (token * heads + head) * (2 * HALF) + column
    if head >= heads:
        head = head - heads
        source = key + head * stride_kh + token * stride_kt + column
        target = key_out + (token * kv_heads + head) * (2 * HALF) + column
    low = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    high = tl.load(source + HALF, mask=mask, other=0.0).to(tl.float32)
    angle = token * (2 * HALF) + column
    low_cos = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
    low_sin = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
    high_cos = tl.load(cos + angle + HALF, mask=mask, other=0.0).to(tl.float32)
    high_sin = tl.load(sin + angle + HALF, mask=mask, other=0.0).to(tl.float32)
    dtype: tl.constexpr = query.dtype.element_ty
    tl.store(target, _half(low, -high, low_cos, low_sin, dtype, INTERPRET), mask=mask)
    tl.store(target + HALF, _half(high, low, high_cos, high_sin, dtype, INTERPRET), mask=mask)


def rotate(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``x * cos + rotate_half(x) * sin`` of both, where ``rotate_half`` of (a, b) is (-b, a).

    Args:
        query, key: [heads, T, d] and [kv_heads, T, d], d even; any strides with d innermost.
        cos, sin: [T, d], contiguous.

    Returns:
        Both in the shape they had, as views of contiguous [T, heads, d].

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    outs = tuple(torch.empty(x.shape[1], x.shape[0], x.shape[2], dtype=x.dtype, device=x.device) for x in (query, key))
    arguments = rotate_arguments(query, key, cos, sin, *outs)
    check_device(query=query, key=key, cos=cos, sin=sin)
    if query.shape[1]:
        grid = (triton.cdiv(query.shape[1], ROTATED_TOKENS), query.shape[0] + key.shape[0])
        _kernel[grid](**arguments, num_warps=4)
    return outs[0].transpose(0, 1), outs[1].transpose(0, 1)


def rotate_arguments(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    query_out: torch.Tensor,
    key_out: torch.Tensor,
) -> dict[str, Any]:
    """Checked arguments of the kernel, by name."""
    check("query", query, (None, None, None), *FLOATS)
    heads, tokens, width = query.shape
    check("key", key, (None, tokens, width), query.dtype)
    check("cos", cos, (tokens, width), query.dtype)
    check("sin", sin, (tokens, width), query.dtype)
    if width % 2 or not width:
        raise ValueError(f"heads of {width} have no halves")
    if not (cos.is_contiguous() and sin.is_contiguous()):
        raise ValueError("cos and sin must be contiguous")
    return {
        "query": query,
        "key": key,
        "cos": cos,
        "sin": sin,
        "query_out": query_out,
        "key_out": key_out,
        "tokens": tokens,
        "heads": heads,
        "kv_heads": key.shape[0],
        "stride_qh": query.stride(0),
        "stride_qt": query.stride(1),
        "stride_kh": key.stride(0),
        "stride_kt": key.stride(1),
        "HALF": width // 2,
        "HALF_PAD": triton.next_power_of_2(width // 2),
        "BLOCK_T": ROTATED_TOKENS,
        "INTERPRET": interpreting(),
    }


def rotate_ref(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`rotate` in PyTorch."""

    def one(x: torch.Tensor) -> torch.Tensor:
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-high, low], dim=-1) * sin

    return one(query), one(key)
