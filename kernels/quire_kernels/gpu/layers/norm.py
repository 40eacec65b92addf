"""norm: RMS normalisation in one launch.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019. As modelling code writes it, it is eight
operations of PyTorch, each reading and writing all rows.

Modelling files differ in where they weigh: ``rounded`` rounds the normalised row and then the product with the weight,
``exact`` rounds once, and ``one_plus`` weighs by 1 + weight and rounds once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels.checks import FLOATS, check, check_device, interpreting
from quire_kernels.gpu.softmax_body import store_as

FORMS = ("rounded", "exact", "one_plus")
NORM_ELEMENTS = 2048  # of a program; a longer row has one by itself
LONGEST = 1 << 16


@triton.jit
def _kernel(
    x: tl.tensor,  # [rows, width]
    weight: tl.tensor,  # [width]
    out: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    FORM: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_W: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> None:
    row = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    column = tl.arange(0, BLOCK_W)
    mask = (row < rows)[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, axis=1) / width + eps)[:, None]
    if FORM == "rounded":
        value = store_as(value, x.dtype.element_ty, INTERPRET).to(tl.float32)
    if FORM == "one_plus":
        scale = scale + 1.0
    tl.store(out + at, store_as(value * scale[None, :], out.dtype.element_ty, INTERPRET), mask=mask)


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, form: str) -> torch.Tensor:
    """``weight * x / sqrt(mean(x * x) + eps)``, the mean over the last axis.

    Args:
        x: [..., n].
        weight: [n], of the dtype of ``x``.
        eps: keeps rows of zeros finite.
        form: of ``FORMS``.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    arguments, options = norm_arguments(x, weight, out, eps, form)
    check_device(x=x, weight=weight)
    if x.numel():
        _kernel[(triton.cdiv(arguments["rows"], arguments["BLOCK_R"]),)](**arguments, **options)
    return out


def norm_arguments(
    x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, eps: float, form: str
) -> tuple[dict[str, Any], dict[str, int]]:
    """Checked arguments of the kernel, by name, and options of the launch."""
    width = x.shape[-1]
    check("weight", weight, (width,), *FLOATS)
    if x.dtype != weight.dtype:
        raise ValueError(f"x has dtype {x.dtype}, the weight {weight.dtype}")
    if form not in FORMS:
        raise ValueError(f"form {form!r} is none of {', '.join(FORMS)}")
    if not 0 < width <= LONGEST:
        raise ValueError(f"rows of {width} are not between 1 and {LONGEST}")
    block = triton.next_power_of_2(width)
    arguments = {
        "x": x,
        "weight": weight,
        "out": out,
        "rows": x.numel() // width,
        "width": width,
        "eps": float(eps),
        "FORM": form,
        "BLOCK_R": max(1, NORM_ELEMENTS // block),
        "BLOCK_W": block,
        "INTERPRET": interpreting(),
    }
    return arguments, {"num_warps": 4 if block <= NORM_ELEMENTS else 8 if block <= 4 * NORM_ELEMENTS else 16}


def norm_ref(x: torch.Tensor, weight: torch.Tensor, eps: float, form: str) -> torch.Tensor:
    """:func:`norm` in PyTorch."""
    value = x.float()
    value = value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + eps)
    if form == "rounded":
        value = value.to(x.dtype).float()
    return (value * (weight.float() + (form == "one_plus"))).to(x.dtype)
