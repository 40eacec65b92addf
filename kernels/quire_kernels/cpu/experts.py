"""cpu_experts: gated feed-forward layers of a mixture of experts on a CPU, each token through the few that it chose.

Rows are sorted by expert, so that an expert's weights are read once; all experts are parts of one call of the kernel
for linear layers, and what they gave is weighed and added up by token (``gather.c``). As there, a token's numbers
depend on nothing but the token.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from .call import structure
from .host_library import load
from .linear import LINEAR_DTYPES, Part, Product, factors, run_parts
from .norm import LANES

# gather_args of the C source
_Arguments = structure(("given", "weight", "place", "result"), ("tokens", "each", "width", "bfloat"))
_X, _RESULT, _ROWS = (getattr(Part, name).offset // 8 for name in ("x", "result", "rows"))  # all fields are words


class Experts:
    """The products of all experts, ``silu(x @ gate.T) * (x @ up.T) @ down.T`` each.

    Args:
        inner: of each expert, a gated product to its inner width.
        outer: from there to the width of a row, a multiple of 16.

    Raises ValueError for products that do not fit together.
    """

    def __init__(self, inner: Sequence[Product], outer: Sequence[Product]) -> None:
        shapes = {(p.weight.inputs, p.outputs, p.weight.dtype) for p in inner}
        back = {(p.outputs, p.weight.inputs, p.weight.dtype) for p in outer}
        if len(shapes) != 1 or shapes != back or len(inner) != len(outer):
            raise ValueError(f"experts of different shapes: {shapes} and {back}")
        ((self.width, self.inner, self.dtype),) = shapes
        if self.width % LANES:
            raise ValueError(f"rows of {self.width}: expected a multiple of {LANES}")
        self.products = (tuple(inner), tuple(outer))
        self.count = len(inner)
        self._parts = tuple(np.array([_numbers(product) for product in each], np.int64) for each in self.products)

    def parts(
        self, which: int, chosen: np.ndarray, x: torch.Tensor, result: torch.Tensor, rows: np.ndarray
    ) -> np.ndarray:
        """What the kernel is told of the experts ``chosen``, whose ``rows`` lie one after another in ``x``."""
        parts: np.ndarray = self._parts[which][chosen]
        before = np.cumsum(rows) - rows
        parts[:, _X] = x.data_ptr() + before * (x.shape[1] * x.element_size())
        parts[:, _RESULT] = result.data_ptr() + before * (result.shape[1] * result.element_size())
        parts[:, _ROWS] = rows
        return parts


def cpu_experts(
    x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, experts: Experts, threads: int = 1
) -> torch.Tensor:
    """The sum over each token's experts of ``weight`` times what the expert gives.

    Args:
        x: [T, width], of the experts' dtype.
        index: [T, n] int64, which experts.
        weight: [T, n].
        threads: how many work at once.

    Returns:
        [T, width], contiguous.

    Raises:
        ValueError: shapes, dtypes or experts it does not know.
        NoHostLibrary: it cannot be compiled here.
    """
    tokens, width = x.shape
    if x.dtype != experts.dtype or x.dtype not in LINEAR_DTYPES or width != experts.width:
        raise ValueError(f"{experts.dtype} rows of {experts.width}, not {x.dtype} of {width}")
    if index.dtype != torch.int64 or index.shape != weight.shape or index.dim() != 2 or index.shape[0] != tokens:
        raise ValueError(f"experts {tuple(index.shape)} of {index.dtype}, weights {tuple(weight.shape)}, {tokens} rows")
    each, flat = index.shape[1], index.reshape(-1).numpy()
    if not len(flat):
        return torch.zeros_like(x, memory_format=torch.contiguous_format)
    if int(flat.min()) < 0 or int(flat.max()) >= experts.count:
        raise ValueError(f"experts {int(flat.min())} to {int(flat.max())}, there are {experts.count}")
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=experts.count)
    chosen = np.flatnonzero(counts)
    rows = factors(x).index_select(0, torch.from_numpy(order // each))
    inner = torch.empty((len(flat), experts.inner), dtype=x.dtype)
    parts = experts.parts(0, chosen, rows, inner, counts[chosen])
    run_parts(parts.ctypes.data, len(chosen), width, x.dtype, threads)
    rows, given = factors(inner), torch.empty((len(flat), width), dtype=x.dtype)
    parts = experts.parts(1, chosen, rows, given, counts[chosen])
    run_parts(parts.ctypes.data, len(chosen), experts.inner, x.dtype, threads)
    place = np.empty(len(flat), np.int64)
    place[order] = np.arange(len(flat))
    shares, result = weight.float().contiguous(), torch.empty((tokens, width), dtype=x.dtype)
    arguments = _Arguments(
        given.data_ptr(), shares.data_ptr(), place.ctypes.data, result.data_ptr(),
        tokens, each, width, x.dtype == torch.bfloat16,
    )  # fmt: skip
    load().quire_cpu_gather(ctypes.byref(arguments), ctypes.c_int64(threads))
    return result


def _numbers(product: Product) -> list[int]:
    """A part as the numbers that it is in memory."""
    part = product.part(0, 0, 0)
    return list(memoryview(part).cast("B").cast("q"))
