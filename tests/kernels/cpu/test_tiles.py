"""The compiled kernel for many query rows on a CPU, against plain PyTorch and on memory it must not read."""

from __future__ import annotations

import math

import pytest
import torch

from quire_kernels.cpu.call import WIDTHS
from quire_kernels.cpu.tiles import TileItems, cpu_tiles_ref
from tests.support.cpu_attention import tile_problem, tile_results
from tests.support.host_library import need_host_library

need_host_library()


def check(query: torch.Tensor, arena: torch.Tensor, items: TileItems) -> None:
    """The kernel's results are those of PyTorch, to rounding."""
    exact = cpu_tiles_ref(query.double(), *arena.double(), items, query.shape[3] ** -0.5)
    for got, expected in zip(tile_results(query, arena, items), exact, strict=True):
        torch.testing.assert_close(got[:, items.rows], expected.float(), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("group", [1, 2, 3, 8])
@pytest.mark.parametrize("width", WIDTHS)
def test_equals_pytorch(width: int, group: int) -> None:
    """Every head dimension and group size gives PyTorch's result to rounding, and no slot outside a run is read."""
    check(*tile_problem(width, group))


@pytest.mark.parametrize("size", [1, 8, 64])
def test_any_block_size(size: int) -> None:
    """A block may hold any number of slots."""
    check(*tile_problem(size=size))


@pytest.mark.parametrize("window", [1, 7, 64, 100])
def test_window(window: int) -> None:
    """A row of a causal item sees its latest keys only, also where that skips whole tiles of keys."""
    check(*tile_problem(window=window, items=((5, 20, True), (90, 400, True))))


def test_rows_in_any_order() -> None:
    """A group's rows need not be neighbours in the batch."""
    query, arena, items = tile_problem(items=((60, 64, False),))
    items.rows.copy_(torch.randperm(60))
    check(query, arena, items)


def test_a_row_without_keys_is_empty() -> None:
    """A causal row before all keys of its item has result 0 and log-sum-exp -inf, its neighbours are right."""
    query, arena, items = tile_problem(items=((20, 10, True),))
    out, lse = tile_results(query, arena, items)

    assert (out[:, :10] == 0).all()
    assert (lse[:, :10] == -math.inf).all()
    assert out[:, 10:].isfinite().all()
    assert lse[:, 10:].isfinite().all()


def test_large_scores_do_not_overflow() -> None:
    """Scores far apart: the largest key wins, nothing is NaN."""
    query, arena, items = tile_problem()
    exact = cpu_tiles_ref(query.double() * 300, *arena.double(), items, query.shape[3] ** -0.5)
    for got, expected in zip(tile_results(query * 300, arena, items), exact, strict=True):
        torch.testing.assert_close(got, expected.float(), rtol=1e-3, atol=1e-3)


def test_threads_change_nothing() -> None:
    """Tiles shared among threads give the same bits."""
    query, arena, items = tile_problem()
    for one, three in zip(tile_results(query, arena, items), tile_results(query, arena, items, threads=3), strict=True):
        assert torch.equal(one, three)


def test_what_the_kernel_does_not_know_is_refused() -> None:
    """Dtypes, widths and strides that would be read as something else raise before any address is used."""
    query, arena, items = tile_problem()
    for bad_query, bad_arena in [
        (query.double(), arena.double()),
        (query[..., :40], arena[..., :40].contiguous()),
        (query, arena[:, :1]),
        (query, arena.transpose(2, 3)),
        (query, arena.bfloat16()),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011
            tile_results(bad_query, bad_arena, items)
