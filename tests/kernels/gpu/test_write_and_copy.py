"""write_kv and copy_blocks against their references."""

from __future__ import annotations

import pytest
import torch

from quire_kernels.gpu.copy_blocks import copy_blocks, copy_blocks_ref
from quire_kernels.gpu.write_kv import write_kv, write_kv_ref
from tests.kernels.batch import DEVICE


def planes(dtype: torch.dtype, width: int, block_size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of one layer: 2 heads, 5 blocks, every element 1."""
    keys = torch.ones(2, 5, block_size, width).to(dtype).to(DEVICE)
    return keys, keys.clone()


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as integers: equal bits, not equal numbers."""
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("width", "block_size"), [(48, 16), (64, 32), (80, 64)])
def test_write_kv_stores_named_slots_only(dtype: torch.dtype, width: int, block_size: int) -> None:
    """A strided batch of 19 tokens goes to shuffled slots; skipped tokens and all other slots stay as they were."""
    random = torch.Generator().manual_seed(1)
    key, value = (torch.randn(19, 2, width, generator=random).to(dtype).to(DEVICE).transpose(0, 1) for _ in range(2))
    slots = torch.randperm(5 * block_size, generator=random)[:19].to(torch.int32).to(DEVICE)
    slots[[0, 7, 18]] = -1
    got, want = planes(dtype, width, block_size), planes(dtype, width, block_size)

    write_kv(key, value, *got, slots)
    write_kv_ref(key, value, *want, slots)

    assert torch.equal(bits(got[0]), bits(want[0]))
    assert torch.equal(bits(got[1]), bits(want[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_write_kv_rounds_to_e4m3(dtype: torch.dtype) -> None:
    """Scaled values round to the nearest e4m3 number, tiny ones included, and clamp at 448."""
    random = torch.Generator().manual_seed(2)
    spread = torch.tensor([1e-3, 0.03, 1.0, 30.0, 1e3])[:, None]
    key, value = (((torch.randn(2, 5, 64, generator=random)) * spread).to(dtype).to(DEVICE) for _ in range(2))
    slots = torch.tensor([3, 20, 41, 0, 79], device=DEVICE)
    scales = (torch.tensor([0.5, 2.0], device=DEVICE), torch.tensor([1.0, 0.25], device=DEVICE))
    got, want = planes(torch.float8_e4m3fn, 64), planes(torch.float8_e4m3fn, 64)

    write_kv(key, value, *got, slots, *scales)
    write_kv_ref(key, value, *want, slots, *scales)

    assert torch.equal(got[0].float(), want[0].float())  # -0 is as good as 0
    assert torch.equal(got[1].float(), want[1].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_copy_blocks_copies_and_scrubs(dtype: torch.dtype) -> None:
    """Leading slots are copied bit for bit in all planes or become zero; rows beyond the count are not meant."""
    random = torch.Generator().manual_seed(3)
    arena = torch.randint(0, 256, (2, 2, 3, 8, 16, 48 * dtype.itemsize), dtype=torch.uint8, generator=random)
    got = arena.to(DEVICE).view(dtype)
    want = got.clone()
    copies = torch.tensor([[1, 6, 16], [1, 0, 5], [-1, 3, 16], [4, 7, 1], [2, 5, 16]], dtype=torch.int32, device=DEVICE)
    count = torch.tensor([4], dtype=torch.int32, device=DEVICE)

    copy_blocks(got, copies, count)
    copy_blocks_ref(want, copies, count)

    assert torch.equal(bits(got), bits(want))
    assert torch.equal(bits(got[:, :, :, 5]).cpu(), arena[:, :, :, 5])
    assert not bits(got[:, :, :, 3]).any()


def test_what_does_not_fit_is_named() -> None:
    """Shapes, dtypes and strides that do not fit are refused with the argument's name."""
    keys, values = planes(torch.float16, 64)
    key = torch.zeros(2, 3, 64, dtype=torch.float16, device=DEVICE)
    slots = torch.zeros(3, dtype=torch.int32, device=DEVICE)

    with pytest.raises(ValueError, match=r"^value has shape \(2, 2, 64\), expected \(2, 3, 64\)"):
        write_kv(key, key[:, :2], keys, values, slots)
    with pytest.raises(ValueError, match=r"^key has dtype torch.float32, the arena holds torch.float16"):
        write_kv(key.float(), key.float(), keys, values, slots)
    with pytest.raises(ValueError, match=r"^key has stride 2 in its last axis"):
        write_kv(torch.zeros(2, 3, 128, dtype=torch.float16, device=DEVICE)[..., ::2], key, keys, values, slots)
    with pytest.raises(ValueError, match=r"^slots has dtype torch.float32"):
        write_kv(key, key, keys, values, slots.float())
    with pytest.raises(ValueError, match=r"^k_scale is given"):
        write_kv(key, key, keys, values, slots, torch.ones(2, device=DEVICE), torch.ones(2, device=DEVICE))
    with pytest.raises(ValueError, match=r"^block size 8 is none of"):
        write_kv(key, key, keys[:, :, :8], values[:, :, :8], slots)
    with pytest.raises(ValueError, match=r"^copies has shape"):
        copy_blocks(keys[None, None], slots[None, :2], slots[:1])
