"""cpu_merge: partial attention results of each row become one, on a CPU; the compiled loop is in ``merge.c``.

The same sum as ``merge_partials``. In PyTorch it takes ten small operations a layer, which for a decode's few rows are
overhead from end to end.
"""

from __future__ import annotations

import ctypes
import math

import torch

from .call import WIDTHS, structure
from .host_library import load

# merge_args of the C source
_Arguments = structure(
    ("out", "lse", "sinks", "index", "result"),
    ("out_stride", "lse_stride", "kv_heads", "group", "width", "rows", "most", "places"),
)


def cpu_merge(
    out: torch.Tensor, lse: torch.Tensor, index: torch.Tensor, sinks: torch.Tensor | None = None, threads: int = 1
) -> torch.Tensor:
    """Merge the partial results of every row.

    Args:
        out: [kv_heads, places, group, d] float32, contiguous in its last three axes.
        lse: [kv_heads, places, group] float32, base 2, contiguous in its last two axes; -inf: that result is empty.
        index: [T, K] int64, contiguous: the places of each row's partial results.
        sinks: [kv_heads * group] natural logits that join each head's softmax without a value.
        threads: how many work at once.

    Returns:
        [T, kv_heads * group, d] float32; 0 for a row whose results are all empty.

    Raises:
        ValueError: shapes, dtypes or strides it does not know, or a place that is not there.
        NoHostLibrary: it cannot be compiled here.
    """
    kv_heads, places, group, width = out.shape
    if out.dtype != torch.float32 or lse.dtype != torch.float32 or width not in WIDTHS:
        raise ValueError(f"float32 and head dimensions {WIDTHS}, not {out.dtype}, {lse.dtype} and {width}")
    if out.stride()[1:] != (group * width, width, 1) or lse.shape != out.shape[:3] or lse.stride()[1:] != (group, 1):
        raise ValueError(f"out {tuple(out.shape)}, lse {tuple(lse.shape)}: expected contiguous places, heads by head")
    if index.dtype != torch.int64 or index.dim() != 2 or not index.is_contiguous():
        raise ValueError("index: expected contiguous int64 [T, K]")
    base2 = None if sinks is None else (sinks.float() * math.log2(math.e)).contiguous()
    if base2 is not None and base2.shape != (kv_heads * group,):
        raise ValueError(f"{tuple(base2.shape)} sinks for {kv_heads * group} heads")
    rows, most = index.shape
    result = torch.empty((rows, kv_heads * group, width))
    pointed = (out, lse, base2, index, result)
    counted = (out.stride(0), lse.stride(0), kv_heads, group, width, rows, most, places)
    arguments = _Arguments(*(None if x is None else x.data_ptr() for x in pointed), *counted)
    if load().quire_cpu_merge(ctypes.byref(arguments), ctypes.c_int64(threads)):
        raise ValueError(f"index names a place outside 0..{places - 1}")
    return result
