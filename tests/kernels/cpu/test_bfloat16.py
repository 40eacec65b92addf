"""Attention in bfloat16 on a CPU: as exact as PyTorch's, with the same bits from every library for a processor."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from quire_kernels.cpu import call, host_library
from quire_kernels.cpu.call import WIDTHS
from quire_kernels.cpu.decode import RowItems, cpu_decode_ref
from quire_kernels.cpu.prebuilt import levels_of
from quire_kernels.cpu.tiles import TileItems, cpu_tiles_ref
from tests.support.cpu_attention import row_problem, row_results, tile_problem, tile_results
from tests.support.host_library import need_host_library

need_host_library()

GROUPS = (1, 3, 8)
LENGTH = 200  # keys of a row


def long_decode(width: int, group: int) -> tuple[torch.Tensor, torch.Tensor, RowItems]:
    """Single rows of many keys, in bfloat16."""
    query, arena, items = row_problem(width, group, lengths=(LENGTH - 1, LENGTH, 64), skip=0)
    return query.bfloat16(), arena.bfloat16(), items


def long_tiles(width: int, group: int) -> tuple[torch.Tensor, torch.Tensor, TileItems]:
    """A chunk with as many keys before it, in bfloat16."""
    query, arena, items = tile_problem(width, group, size=8, items=((60, LENGTH, True), (20, 70, False)))
    return query.bfloat16(), arena.bfloat16(), items


def plain_pytorch(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention of [kv_heads, group, n, d] rows that see all keys, in the dtype of ``query``."""
    keys, values = (x[:, None].expand(-1, query.shape[1], -1, -1) for x in (keys, values))
    return scaled_dot_product_attention(query, keys, values, scale=scale)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("width", WIDTHS)
def test_single_rows_are_as_exact_as_pytorch(width: int, group: int) -> None:
    """The error against float64 is at most twice that of PyTorch in bfloat16."""
    query, arena, items = long_decode(width, group)
    got, _ = row_results(query, arena, items)
    exact, _ = cpu_decode_ref(query.double(), *arena.double(), items, 0.2)
    worst = plain = 0.0
    for i, count in enumerate(items.kv_len):
        blocks = items.table[items.table_start[i] :]
        keys, values = (x[:, blocks].flatten(1, 2)[:, :count] for x in arena)
        torchs = plain_pytorch(query[:, :, i : i + 1], keys, values, 0.2)[:, :, 0]
        worst = max(worst, float((got[:, i] - exact[:, i]).abs().max()))
        plain = max(plain, float((torchs - exact[:, i]).abs().max()))

    assert worst <= 2 * plain


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("width", WIDTHS)
def test_many_rows_are_as_exact_as_pytorch(width: int, group: int) -> None:
    """The error against float64 is at most twice that of the same sums by PyTorch in bfloat16."""
    query, arena, items = long_tiles(width, group)
    scale = width**-0.5
    got, _ = tile_results(query, arena, items)
    exact, _ = cpu_tiles_ref(query.double(), *arena.double(), items, scale)
    plain, _ = cpu_tiles_ref(query, *arena, items, scale)

    assert (got - exact).abs().max() <= 2 * (plain - exact).abs().max()


def test_one_key_is_its_value() -> None:
    """A row that sees one key has its value, to the bit: weights are shares of one whole."""
    query, arena, items = row_problem(64, 3, lengths=(1,), skip=3)
    query, arena = query.bfloat16(), arena.bfloat16()
    got, _ = row_results(query, arena, items)

    assert torch.equal(got[:, 0], arena[1][:, items.table[0], 3][:, None].expand(-1, 3, -1))


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the kernels those of a level."""

    def force(level: str) -> None:
        monkeypatch.setenv(host_library.FORCED, level)
        library = host_library.load.__wrapped__()
        monkeypatch.setattr(call, "load", lambda: library)

    return force


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", levels_of())
def test_a_lesser_processor_gives_the_same_bits(level: str, dtype: torch.dtype, forced: Callable[[str], None]) -> None:
    """Libraries for processors with narrower vectors, or without products of pairs, give what this one's does."""
    sizes = [(width, group) for width in WIDTHS for group in GROUPS]

    def bits() -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for width, group in sizes:
            query, arena, rows = long_decode(width, group)
            found += row_results(query.to(dtype), arena.to(dtype), rows)
            query, arena, chunks = long_tiles(width, group)
            found += tile_results(query.to(dtype), arena.to(dtype), chunks)
        return found

    expected = bits()
    forced(level)
    assert all(torch.equal(got, right) for got, right in zip(bits(), expected, strict=True))


@pytest.mark.slow
def test_a_level_that_is_forced_is_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forced is loaded where the processor can run it, and refused by name where it cannot."""
    for level in levels_of():
        monkeypatch.setenv(host_library.FORCED, level)
        assert bool(host_library.load.__wrapped__().quire_cpu_multiplies_pairs()) == level.endswith("bf16")
    monkeypatch.setenv(host_library.FORCED, "x86-64-v9")
    with pytest.raises(host_library.NoHostLibrary, match="QUIRE_CPU_LEVEL=x86-64-v9"):
        host_library.load.__wrapped__()


def test_large_scores_do_not_overflow() -> None:
    """Scores far apart: the largest key wins, nothing is NaN."""
    query, arena, items = long_decode(64, 3)
    got, lse = row_results(query * 300, arena, items)

    assert got.isfinite().all()
    assert (lse < math.inf).all()
