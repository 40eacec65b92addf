"""cpu_rotate: rotary positions of queries or keys on a CPU in one pass; the compiled loop is in ``rotate.c``.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, with the halves of a head as
the pairs that are rotated. As modelling code writes it, it is five operations of PyTorch, one of them a copy; in
bfloat16 each of them rounds, and so does the kernel.
"""

from __future__ import annotations

import ctypes

import torch

from .call import structure
from .host_library import load

# rotate_args of the C source
_Arguments = structure(("x", "cos", "sin", "result"), ("rows", "heads", "width", "bfloat"))

PAIR = 32  # two vectors of 16: one of each half


def cpu_rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, threads: int = 1) -> torch.Tensor:
    """``x * cos + rotate_half(x) * sin``, where ``rotate_half`` of (a, b) is (-b, a).

    Args:
        x: [heads, T, d] float32 or bfloat16, d a multiple of 32; a view of contiguous [T, heads, d] is read in place.
        cos, sin: [T, d], of the same dtype.
        threads: how many work at once.

    Returns:
        [heads, T, d], a view of contiguous [T, heads, d].

    Raises:
        ValueError: shapes or dtypes it does not know.
        NoHostLibrary: it cannot be compiled here.
    """
    heads, rows, width = x.shape
    known = x.dtype in (torch.float32, torch.bfloat16) and x.dtype == cos.dtype == sin.dtype
    if not known or width % PAIR or not width:
        raise ValueError(f"heads of a multiple of {PAIR}, not {width}, of one dtype, not {x.dtype} and {cos.dtype}")
    if cos.shape != (rows, width) or sin.shape != (rows, width):
        raise ValueError(f"cos {tuple(cos.shape)}, sin {tuple(sin.shape)} for {rows} rows of {width}")
    x, cos, sin = x.transpose(0, 1).contiguous(), cos.contiguous(), sin.contiguous()
    result = torch.empty_like(x)
    pointers = (t.data_ptr() for t in (x, cos, sin, result))
    arguments = _Arguments(*pointers, rows, heads, width, x.dtype == torch.bfloat16)
    load().quire_cpu_rotate(ctypes.byref(arguments), ctypes.c_int64(threads))
    return result.transpose(0, 1)
