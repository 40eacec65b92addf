"""Trial: whether a fused form computes what the model's own does, in the dtype and on the device that it will run in.

Both round to the same dtype at the same places, so nearly all numbers are equal. Functions of the device (a root, an
exponential) differ in a last bit of float32, which moves a number across the border between two of a narrower type once
in a thousand times or less. A form that rounds at other places, or weighs otherwise, shows in every tenth.
"""

from __future__ import annotations

import torch

TRIED_SCALES = (1e-2, 1.0, 30.0, 0.0)  # of the rows that are tried
EACH = 8  # rows of each
MOVED = 0.01  # share of the numbers that may differ, of a type narrower than float32
FLOAT32 = 1e-5  # that float32 may be off, relative to a row's largest


def rows_for_trial(width: int, like: torch.Tensor) -> torch.Tensor:
    """[1, rows, width] of very different size, zeros among them; of the dtype and on the device of ``like``."""
    draw = torch.Generator().manual_seed(0)
    scales = torch.tensor(TRIED_SCALES).repeat_interleave(EACH)[:, None]
    return (torch.randn(1, len(scales), width, generator=draw) * scales).to(like.device, like.dtype)


def near(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether these differ by a rounding of a row's largest number at most, as where products follow upon them."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    eps = FLOAT32 if expected.dtype == torch.float32 else torch.finfo(expected.dtype).eps
    largest = expected.double().abs().amax(-1, keepdim=True)
    return bool(((got.double() - expected.double()).abs() <= eps * largest).all())


def agree(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether these are the same but for such rounding."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    off, size = (got.double() - expected.double()).abs(), expected.double().abs()
    small = FLOAT32 * size.amax(-1, keepdim=True)
    if expected.dtype == torch.float32:
        return bool((off <= small).all())
    step = torch.finfo(expected.dtype).eps * size
    return bool((off <= step + small).all()) and float((off > small).double().mean()) <= MOVED
