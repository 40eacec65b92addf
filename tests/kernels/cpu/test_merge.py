"""The compiled merge of partial results on a CPU, against the reference of the one for GPUs."""

from __future__ import annotations

import math

import pytest
import torch

from quire_kernels.cpu.call import WIDTHS
from quire_kernels.cpu.merge import cpu_merge
from quire_kernels.gpu.merge_partials import merge_partials_ref
from tests.support.host_library import need_host_library

need_host_library()

KV_HEADS, PLACES, ROWS = 2, 40, 30
EMPTY = PLACES - 1


def problem(width: int, group: int, most: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Partial results, some of them empty with NaN in place of a result, and the places of each row."""
    torch.manual_seed(width + group + most)
    out = torch.randn(KV_HEADS, PLACES, group, width)
    lse = torch.randn(KV_HEADS, PLACES, group) * 20
    for place in (EMPTY, 3, 17):
        out[:, place], lse[:, place] = math.nan, -math.inf
    lse[0, 5] = -math.inf
    index = torch.randint(PLACES, (ROWS, most))
    index[4], index[9, 1:] = EMPTY, EMPTY
    return out, lse, index


def reference(
    out: torch.Tensor, lse: torch.Tensor, index: torch.Tensor, sinks: torch.Tensor | None = None
) -> torch.Tensor:
    """What the reference gives for [places, heads] in place of [kv_heads, places, group]."""
    rows, most = index.shape
    heads = out.shape[0] * out.shape[2]
    flat = (out.transpose(0, 1).reshape(PLACES, heads, -1), lse.transpose(0, 1).reshape(PLACES, heads))
    merged = torch.full((rows, heads, out.shape[3]), 7.0)
    numbers = (torch.arange(rows), torch.arange(rows + 1) * most, index.reshape(-1), torch.tensor([rows]))
    listed, ptr, places, count = (x.to(torch.int32) for x in numbers)
    merge_partials_ref(*flat, merged, listed, ptr, places, count, sinks)
    return merged


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("width", WIDTHS)
def test_equals_the_reference(width: int, group: int, most: int, sinks: bool) -> None:
    """Any head dimension, group and number of partial results, with and without sinks; empty ones have no weight."""
    out, lse, index = problem(width, group, most)
    logits = torch.linspace(-30.0, 30.0, KV_HEADS * group) if sinks else None

    got = cpu_merge(out, lse, index, logits)

    torch.testing.assert_close(got, reference(out, lse, index, logits), rtol=1e-5, atol=1e-6)
    assert not got[4].any()


def test_threads_change_nothing() -> None:
    """Rows shared among threads give the same bits."""
    out, lse, index = problem(256, 3, 5)
    index = index.repeat(20, 1)
    assert torch.equal(cpu_merge(out, lse, index, threads=3), cpu_merge(out, lse, index))


def test_what_it_does_not_know_is_refused() -> None:
    """Dtypes, shapes, strides and places that would be read as something else raise before any address is used."""
    out, lse, index = problem(64, 2, 3)
    for bad in [
        (out.double(), lse, index),
        (out[..., :40].contiguous(), lse, index),
        (out.transpose(1, 2), lse, index),
        (out, lse[:, :-1], index),
        (out, lse, index.int()),
        (out, lse, index.T),
        (out, lse, torch.full_like(index, PLACES)),
        (out, lse, -1 - index),
        (out, lse, index, torch.zeros(3)),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011
            cpu_merge(*bad)
