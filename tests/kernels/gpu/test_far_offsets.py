"""Offsets of more than 2**31 elements, on address space without memory behind it."""

from __future__ import annotations

import mmap
from dataclasses import replace

import pytest
import torch

from quire_kernels.gpu.copy_blocks import copy_blocks
from quire_kernels.gpu.write_kv import write_kv
from tests.kernels.batch import DEVICE, assert_no_worse, device_work, make_batch, run

NORESERVE = 0x4000  # MAP_NORESERVE
pytestmark = pytest.mark.skipif(DEVICE.type != "cpu", reason="needs address space without memory")


@pytest.fixture
def arena() -> torch.Tensor:
    """One layer, two heads, blocks of 16 x 64: the second head begins beyond 2**31 elements already."""
    region = mmap.mmap(-1, 5 << 32, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    flat = torch.frombuffer(region, dtype=torch.float16)
    arena = flat.view(1, 2, 2, -1, 16, 64)
    assert arena.stride(2) > 2**31
    return arena


def test_writes_and_copies_beyond_31_bits(arena: torch.Tensor) -> None:
    """Blocks more than 2**31 elements into the arena are written, copied and nothing before them."""
    blocks = arena.shape[3]
    key, value = torch.full((2, 1, 64), 5.0).half(), torch.full((2, 1, 64), 6.0).half()
    last = blocks - 1

    write_kv(key, value, arena[0, 0], arena[0, 1], torch.tensor([last * 16 + 2]))
    copies, count = torch.tensor([[last, last - 7, 16]], dtype=torch.int32), torch.tensor([1], dtype=torch.int32)
    copy_blocks(arena, copies, count)

    for block in (last, last - 7):
        assert arena[0, :, :, block, 2, 0].tolist() == [[5.0, 5.0], [6.0, 6.0]]
        assert arena[0, :, :, block].count_nonzero() == 4 * 64


def test_attends_beyond_31_bits(arena: torch.Tensor) -> None:
    """Blocks at the far end of each head's plane are read where they are."""
    batch = make_batch([37, 20], [1, 5])
    blocks = batch.keys.shape[1]
    keys, values = arena[0, 0, :, -blocks:], arena[0, 1, :, -blocks:]
    keys.copy_(batch.keys)
    values.copy_(batch.values)
    first = arena.shape[3] - blocks
    far = replace(batch, keys=arena[0, 0], values=arena[0, 1], tables=[t + first for t in batch.tables])

    assert_no_worse(batch, run(far, device_work(far)))
