"""The compiled store of a step's keys and values on a CPU."""

from __future__ import annotations

import pytest
import torch

from quire_kernels.cpu.write import cpu_write
from tests.support.host_library import need_host_library

need_host_library()

KV_HEADS, BLOCKS, SIZE, WIDTH, ROWS = 3, 7, 4, 48, 9


def problem(rows: int = ROWS, blocks: int = BLOCKS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, values as a model gives them (heads side by side in a row), a layer of an arena, and scattered slots."""
    torch.manual_seed(1)
    key = torch.randn(KV_HEADS, rows, WIDTH)
    value = torch.randn(rows, KV_HEADS, WIDTH).transpose(0, 1)
    return key, value, torch.zeros(5, 2, KV_HEADS, blocks, SIZE, WIDTH), torch.randperm(blocks * SIZE)[:rows]


@pytest.mark.parametrize(("rows", "blocks"), [(ROWS, BLOCKS), (600, 200)])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_slot_gets_its_row_and_no_other_is_touched(
    rows: int, blocks: int, threads: int, dtype: torch.dtype
) -> None:
    """Rows in any order and stride go to their slots of one layer, by one thread or two, and the rest of the arena
    stays as it was."""
    key, value, arena, slots = problem(rows, blocks)
    key, value, arena = (x.to(dtype) for x in (key, value, arena))
    expected = arena.clone()
    for plane, new in zip(expected[3], (key, value), strict=True):
        plane.view(KV_HEADS, -1, WIDTH)[:, slots] = new

    cpu_write(key, value, *arena[3], slots, threads)

    assert torch.equal(arena, expected)


def test_a_slot_outside_writes_nothing() -> None:
    """One slot too far, or below 0: an error, and no other row is written either."""
    for wrong in (BLOCKS * SIZE, -1):
        key, value, arena, slots = problem()
        slots[-1] = wrong
        with pytest.raises(ValueError, match=f"outside 0..{BLOCKS * SIZE - 1}"):
            cpu_write(key, value, *arena[3], slots)
        assert not arena.any()


def test_what_it_does_not_know_is_refused() -> None:
    """Dtypes, shapes and strides that would be written as something else raise before any address is used."""
    key, value, arena, slots = problem()
    keys, values = arena[3]
    for bad in [
        (key.double(), value.double(), keys, values, slots),
        (key, value[:, :-1], keys, values, slots),
        (key, value, keys, values, slots[:-1]),
        (key, value, keys, values, slots.int()),
        (key, value.flip(2).transpose(1, 2).contiguous().transpose(1, 2), keys, values, slots),
        (key, value, keys[:1], values[:1], slots),
        (key, value, keys.transpose(1, 2), values.transpose(1, 2), slots),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011
            cpu_write(*bad)
