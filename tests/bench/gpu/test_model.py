"""The static model: what it says of kernels follows from what they compile to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.gpu import model
from quire_kernels.gpu.launch_table import Launch

H200 = next(chip for chip in model.CHIPS if chip.name == "H200")
LAUNCH = Launch(16, 64, 4, 5, 168, per_sm=3, kv_buffers=2)
BUILT: dict[str, Any] = {"dtype": "bfloat16", "BLOCK_N": 64, "loop": 470, "per_sm": 3, "kv_buffers": 2, "under_way": 4}


def share(built: dict[str, Any], now: bool = True) -> float:
    """Estimated share of an H200's memory rate of 40 decodes of 4,096 tokens."""
    row = model.decode_row(H200, "", np.full(40, 4096), LAUNCH, BUILT | built, now)
    assert 0 < row["share"] <= model.MOST_OF_MEMORY
    return float(row["share"])


@pytest.mark.parametrize("worse", [{"kv_buffers": 1, "under_way": 0, "per_sm": 1}, {"per_sm": 1}, {"loop": 4700}])
def test_worse_kernels_are_estimated_lower(worse: dict[str, Any]) -> None:
    """Fewer buffers, fewer programs or a longer loop lower the estimate; so does an unbalanced cut."""
    assert share(worse) < share({})
    assert share({}, now=False) < share({})


def test_bytes_and_operations_are_those_of_the_shape() -> None:
    """A decode reads keys and values once; a prompt's operations are those of half a square."""
    decode = model.decode_row(H200, "", np.full(8, 4096), LAUNCH, BUILT, True)
    assert decode["megabytes"] == round(8 * 4096 * 8 * 2 * 128 * 2 / 1e6, 1)
    prompt = model.prefill_row(H200, 4096, Launch(128, 64, 8, 5, per_sm=1), BUILT | {"per_sm": 1})
    assert prompt["gigaflop"] == round(4 * 32 * 128 * 4096 * 4097 / 2 / 1e9, 2)
    assert prompt["share"] <= model.MOST_OF_TENSORS
