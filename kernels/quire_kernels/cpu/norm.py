"""cpu_norm: RMS normalisation on a CPU in one pass; the compiled loop is in ``norm.c``.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019. As modelling code writes it, it is six
operations of PyTorch, each reading and writing all rows. Of bfloat16 rows they are float32, and modelling code differs
in what it rounds on the way.
"""

from __future__ import annotations

import ctypes

import torch

from .call import structure
from .host_library import load

# norm_args of the C source
_Arguments = structure(("x", "weight", "result"), ("rows", "width", "bfloat", "rounds"))

LANES = 16


def cpu_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, threads: int = 1, rounds: bool = False) -> torch.Tensor:
    """``weight * x / sqrt(mean(x * x) + eps)``, the mean over the last axis.

    Args:
        x: [..., n] float32 or bfloat16, n a multiple of 16.
        weight: [n] float32.
        eps: keeps rows of zeros finite.
        threads: how many work at once.
        rounds: of bfloat16 rows, the normalised row is rounded to it before ``weight`` is multiplied in.

    Returns:
        A contiguous tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: shapes or dtypes it does not know.
        NoHostLibrary: it cannot be compiled here.
    """
    width = x.shape[-1]
    if x.dtype not in (torch.float32, torch.bfloat16) or weight.dtype != torch.float32:
        raise ValueError(f"float32 or bfloat16 and a float32 weight, not {x.dtype} and {weight.dtype}")
    if weight.shape != (width,) or not weight.is_contiguous() or width % LANES or not width:
        raise ValueError(f"rows of {width}, weight {tuple(weight.shape)}: expected one multiple of {LANES}, contiguous")
    x = x.contiguous()
    result = torch.empty_like(x)
    numbers = (x.numel() // width, width, x.dtype == torch.bfloat16, rounds)
    arguments = _Arguments(*(t.data_ptr() for t in (x, weight, result)), *numbers)
    load().quire_cpu_norm(ctypes.byref(arguments), ctypes.c_float(eps), ctypes.c_int64(threads))
    return result
