"""merge_partials: partial results of a query row become its attention output.

A row has one partial result for each split of its keys and for each prefix level it shares with others; which one
is which does not matter here. With log-sum-exps e_i in base 2 and outputs o_i, the merged output is

    sum_i 2**(e_i - top) o_i / (sum_i 2**(e_i - top) + 2**(sink - top)),    top = max_i e_i

where the sink, a logit without a value, joins only if the model has sinks. Rows with a single partial result are
not listed: the attention kernel wrote their output itself.

Invariants: an empty partial result has e = -inf and weight 0, whatever o holds; if all are empty the output is 0,
never NaN; rows not listed are untouched.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels.checks import FLOATS, check, check_device, interpreting

from .softmax_body import LOG2_E, before_sink, power_of_two, store_as

PARTIALS = 16  # partial results a program looks at in one step


@triton.jit
def _kernel(
    partial_out: tl.tensor,  # [places, heads, d]
    partial_lse: tl.tensor,  # [places, heads]
    out: tl.tensor,  # [T, heads, d]
    rows: tl.tensor,  # [R] rows to merge
    ptr: tl.tensor,  # [R + 1] where each row's places begin
    places: tl.tensor,  # [ptr[R]]
    count: tl.tensor,  # [1] rows that are meant
    sinks: tl.tensor,  # [heads] or None
    heads: tl.tensor,
    stride_or: tl.tensor,
    stride_oh: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> None:
    index = tl.program_id(0)
    if index >= tl.load(count):
        return
    head = tl.program_id(1)
    column = tl.arange(0, HEAD_PAD)
    last = tl.load(ptr + index + 1)
    acc = tl.zeros([HEAD_PAD], tl.float32)
    total = 0.0
    top = float("-inf")
    for first in range(tl.load(ptr + index), last, BLOCK_P):
        entry = first + tl.arange(0, BLOCK_P)
        place = tl.load(places + entry, mask=entry < last, other=0).to(tl.int64) * heads + head
        lse = tl.load(partial_lse + place, mask=entry < last, other=float("-inf"))
        new_top = tl.maximum(top, tl.max(lse, 0))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = power_of_two(lse - base, True)
        shrink = power_of_two(top - base, True)
        live = (lse != float("-inf"))[:, None] & (column < HEAD_DIM)[None, :]
        part = tl.load(partial_out + place[:, None] * HEAD_DIM + column[None, :], mask=live, other=0.0)
        acc = acc * shrink + tl.sum(part * weight[:, None], 0)
        total = total * shrink + tl.sum(weight, 0)
        top = new_top
    some = tl.where(total > 0.0, total, 1.0)
    result = acc / some
    if sinks is not None:
        result *= before_sink(top + tl.log2(some), tl.load(sinks + head))
    target = out + tl.load(rows + index).to(tl.int64) * stride_or + head * stride_oh + column
    tl.store(target, store_as(result, out.dtype.element_ty, INTERPRET), mask=column < HEAD_DIM)


def merge_partials(
    partial_out: torch.Tensor,
    partial_lse: torch.Tensor,
    out: torch.Tensor,
    rows: torch.Tensor,
    ptr: torch.Tensor,
    places: torch.Tensor,
    count: torch.Tensor,
    sinks: torch.Tensor | None = None,
) -> None:
    """Merge the first ``count`` listed rows into ``out``.

    Args:
        partial_out: [places, heads, d] float32, contiguous; partial_lse: [places, heads] float32, contiguous.
        out: [T, heads, d].
        rows: [R] int32; ptr: [R + 1] int32: row ``rows[i]`` merges ``places[ptr[i]:ptr[i + 1]]`` (int32).
        count: [1] int32 on the device.
        sinks: [heads] logits.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    arguments = merge_arguments(partial_out, partial_lse, out, rows, ptr, places, count, sinks)
    check_device(partial_out=partial_out, partial_lse=partial_lse, out=out, rows=rows, places=places, sinks=sinks)
    if rows.shape[0]:
        _kernel[(rows.shape[0], out.shape[1])](**arguments, num_warps=4)


def merge_arguments(
    partial_out: torch.Tensor,
    partial_lse: torch.Tensor,
    out: torch.Tensor,
    rows: torch.Tensor,
    ptr: torch.Tensor,
    places: torch.Tensor,
    count: torch.Tensor,
    sinks: torch.Tensor | None,
) -> dict[str, Any]:
    """Checked arguments of the kernel, by name."""
    check("out", out, (None, None, None), *FLOATS)
    check("partial_out", partial_out, (None, *out.shape[1:]), torch.float32)
    check("partial_lse", partial_lse, tuple(partial_out.shape[:2]), torch.float32)
    check("rows", rows, (None,), torch.int32)
    check("ptr", ptr, (rows.shape[0] + 1,), torch.int32)
    check("places", places, (None,), torch.int32)
    check("count", count, (1,), torch.int32)
    for name, tensor in (("partial_out", partial_out), ("partial_lse", partial_lse)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {tensor.stride()}, expected contiguous")
    if sinks is not None:
        check("sinks", sinks, (out.shape[1],), *FLOATS)
    return {
        "partial_out": partial_out,
        "partial_lse": partial_lse,
        "out": out,
        "rows": rows,
        "ptr": ptr,
        "places": places,
        "count": count,
        "sinks": sinks,
        "heads": out.shape[1],
        "stride_or": out.stride(0),
        "stride_oh": out.stride(1),
        "HEAD_DIM": out.shape[2],
        "HEAD_PAD": triton.next_power_of_2(out.shape[2]),
        "BLOCK_P": PARTIALS,
        "INTERPRET": interpreting(),
    }


def merge_partials_ref(
    partial_out: torch.Tensor,
    partial_lse: torch.Tensor,
    out: torch.Tensor,
    rows: torch.Tensor,
    ptr: torch.Tensor,
    places: torch.Tensor,
    count: torch.Tensor,
    sinks: torch.Tensor | None = None,
) -> None:
    """:func:`merge_partials` in PyTorch."""
    for i in range(int(count)):
        chosen = places[int(ptr[i]) : int(ptr[i + 1])].long()
        lse = partial_lse[chosen]
        parts = partial_out[chosen].masked_fill(lse.isinf()[..., None], 0.0)
        logits = lse if sinks is None else torch.cat([lse, sinks.float()[None] * LOG2_E.value])
        top = logits.amax(0)
        weight = torch.exp2(lse - top.masked_fill(top.isinf(), 0.0))
        total = torch.exp2(logits - top.masked_fill(top.isinf(), 0.0)).sum(0)
        merged = (weight[..., None] * parts).sum(0) / total.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        out[int(rows[i])] = merged.to(out.dtype)
