"""Powers of two for float32 results, by our own series."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire_kernels.gpu.softmax_body import power_of_two
from tests.kernels.batch import DEVICE

COUNT = 4096


@triton.jit
def _kernel(x: tl.tensor, out: tl.tensor, COUNT: tl.constexpr) -> None:
    index = tl.arange(0, COUNT)
    tl.store(out + index, power_of_two(tl.load(x + index), True))


def test_powers_are_exact_to_one_unit() -> None:
    """Over the range of weights the error stays below one unit in the last place; far below it is 0, at 0 exactly 1."""
    ends = torch.tensor([float("-inf"), -1000.0, 0.0, 126.0])
    x = torch.cat([torch.linspace(-126, 1, COUNT - len(ends)), ends]).to(DEVICE)
    out = torch.empty_like(x)

    _kernel[(1,)](x, out, COUNT=COUNT)

    exact, found = torch.exp2(x.double().cpu()), out.double().cpu()
    finite = x.cpu() >= -126
    assert float(((found - exact)[finite] / exact[finite]).abs().max()) < torch.finfo(torch.float32).eps
    assert found[~finite].tolist() == [0.0, 0.0]
    assert float(found[-2]) == 1.0
