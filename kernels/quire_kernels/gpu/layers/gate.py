"""gate: the activation of a gated feed-forward layer and its product with the other half, in one launch.

Source: Shazeer, "GLU Variants Improve Transformer", 2020. The activation is rounded before the product, as by PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels.checks import FLOATS, check, check_device, interpreting
from quire_kernels.gpu.softmax_body import store_as

ACTIVATIONS = ("silu", "gelu_tanh", "relu")
GATE_ELEMENTS = 1024  # of a program


@triton.jit
def _kernel(
    gated: tl.tensor,  # [elements]
    up: tl.tensor,
    out: tl.tensor,
    elements: tl.tensor,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < elements
    value = tl.load(gated + at, mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION == "relu":
        value = tl.maximum(value, 0.0)
    else:
        inner = value
        if ACTIVATION == "gelu_tanh":  # (1 + tanh(y)) / 2 is sigmoid(2 y)
            inner = 1.5957691216057308 * (value + 0.044715 * value * value * value)
        small = tl.exp(-tl.abs(inner))  # of a number below 0, which does not overflow
        value = value * tl.where(inner < 0, small, 1.0) / (1.0 + small)
    value = store_as(value, out.dtype.element_ty, INTERPRET).to(tl.float32)
    value = value * tl.load(up + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, store_as(value, out.dtype.element_ty, INTERPRET), mask=mask)


def gate(gated: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """``activation(gated) * up``.

    Args:
        gated, up: of one shape and dtype, contiguous.
        activation: of ``ACTIVATIONS``.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    out = torch.empty_like(gated)
    arguments = gate_arguments(gated, up, out, activation)
    check_device(gated=gated, up=up)
    if gated.numel():
        _kernel[(triton.cdiv(gated.numel(), GATE_ELEMENTS),)](**arguments, num_warps=4)
    return out


def gate_arguments(gated: torch.Tensor, up: torch.Tensor, out: torch.Tensor, activation: str) -> dict[str, Any]:
    """Checked arguments of the kernel, by name."""
    check("gated", gated, (None,) * gated.dim(), *FLOATS)
    check("up", up, tuple(gated.shape), gated.dtype)
    if not (gated.is_contiguous() and up.is_contiguous()):
        raise ValueError("gated and up must be contiguous")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    return {
        "gated": gated,
        "up": up,
        "out": out,
        "elements": gated.numel(),
        "ACTIVATION": activation,
        "BLOCK": GATE_ELEMENTS,
        "INTERPRET": interpreting(),
    }


def gate_ref(gated: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """:func:`gate` in PyTorch."""
    value = gated.float()
    if activation == "silu":
        value = torch.nn.functional.silu(value)
    elif activation == "gelu_tanh":
        value = torch.nn.functional.gelu(value, approximate="tanh")
    else:
        value = torch.relu(value)
    return (value.to(gated.dtype).float() * up.float()).to(gated.dtype)
