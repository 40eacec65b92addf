"""merge_partials against its reference and against a single softmax."""

from __future__ import annotations

import pytest
import torch

from quire_kernels.gpu.merge_partials import merge_partials, merge_partials_ref
from tests.kernels.batch import DEVICE


def lists(places: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """``ptr`` and ``places`` of rows with these places."""
    ptr = torch.tensor([0, *(len(p) for p in places)]).cumsum(0)
    flat = torch.tensor([p for row in places for p in row])
    return ptr.to(torch.int32).to(DEVICE), flat.to(torch.int32).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sinks", [False, True])
def test_merges_any_number_of_partials(dtype: torch.dtype, sinks: bool) -> None:
    """Rows with 2, 3 and 37 partial results, scattered, empty ones among them; unlisted rows are untouched."""
    random = torch.Generator().manual_seed(4)
    partial = torch.randn(45, 3, 48, generator=random).to(DEVICE)
    lse = (torch.randn(45, 3, generator=random) * 20).to(DEVICE)
    order = torch.randperm(45, generator=random).tolist()
    lse[order[0]] = lse[order[3], 1] = lse[order[9]] = -torch.inf
    partial[order[9]] = torch.nan
    ptr, places = lists([order[:2], order[2:5], order[5:42]])
    rows = torch.tensor([3, 0, 1], dtype=torch.int32, device=DEVICE)
    count = torch.tensor([3], dtype=torch.int32, device=DEVICE)
    logits = torch.tensor([1.0, 90.0, -5.0], device=DEVICE) if sinks else None
    got = torch.full((4, 3, 48), 7.0, dtype=dtype, device=DEVICE)
    want = got.clone()

    merge_partials(partial, lse, got, rows, ptr, places, count, logits)
    merge_partials_ref(partial, lse, want, rows, ptr, places, count, logits)

    torch.testing.assert_close(got, want)
    assert bool((got[2] == 7.0).all())


def test_all_partials_empty_give_zero() -> None:
    """Nothing seen at all is 0, not NaN, with and without a sink."""
    partial = torch.full((2, 1, 64), torch.nan, device=DEVICE)
    lse = torch.full((2, 1), -torch.inf, device=DEVICE)
    ptr, places = lists([[0, 1]])
    one = torch.ones(1, dtype=torch.int32, device=DEVICE)
    for sinks in (None, torch.zeros(1, device=DEVICE)):
        out = torch.full((1, 1, 64), 7.0, device=DEVICE)

        merge_partials(partial, lse, out, torch.zeros_like(one), ptr, places, one, sinks)

        assert not out.any()


def test_count_on_the_device_decides() -> None:
    """Rows beyond the count are not merged, however many are listed."""
    partial, lse = torch.ones(4, 1, 64, device=DEVICE), torch.zeros(4, 1, device=DEVICE)
    ptr, places = lists([[0, 1], [2, 3]])
    out = torch.zeros(2, 1, 64, device=DEVICE)
    one = torch.ones(1, dtype=torch.int32, device=DEVICE)

    merge_partials(partial, lse, out, torch.arange(2, dtype=torch.int32, device=DEVICE), ptr, places, one)

    assert bool((out[0] == 1).all())
    assert not out[1].any()
