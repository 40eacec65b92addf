"""The compiled normalisation and rotation of rows on a CPU."""

from __future__ import annotations

import pytest
import torch

from quire_kernels.cpu.norm import cpu_norm
from quire_kernels.cpu.rotate import cpu_rotate
from tests.support.host_library import need_host_library

need_host_library()


@pytest.mark.parametrize("shape", [(1, 16), (7, 48), (2, 300, 512)])
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_normalised(shape, threads):
    """Rows of any scale give what the formula gives in double precision, rows of zeros give zeros."""
    torch.manual_seed(0)
    x = torch.randn(shape) * torch.logspace(-3, 3, shape[-2]).unsqueeze(-1)
    x.view(-1, shape[-1])[0] = 0.0
    weight = torch.randn(shape[-1])
    wide = x.double()
    expected = weight * wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    torch.testing.assert_close(cpu_norm(x, weight, 1e-5, threads), expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rounds", [False, True])
def test_rows_of_bfloat16_are_normalised_in_float32(rounds):
    """The result is rounded once, or the normalised row before its weight too: as modelling code has it, to the bit."""
    torch.manual_seed(0)
    x, weight = torch.randn(300, 512).bfloat16(), torch.randn(512).bfloat16()
    wide = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
    expected = weight * wide.bfloat16() if rounds else (weight.float() * wide).bfloat16()

    got = cpu_norm(x, weight.float(), 1e-5, 2, rounds)

    assert got.dtype == torch.bfloat16
    assert (got != expected).float().mean() < 1e-3


def test_strided_rows_are_normalised():
    """A view that skips is read as the tensor it is."""
    x = torch.randn(5, 64)[:, ::2]
    expected = torch.nn.functional.rms_norm(x, (32,), eps=1e-6)

    torch.testing.assert_close(cpu_norm(x, torch.ones(32), 1e-6), expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 300])
def test_heads_are_rotated(rows, threads):
    """Each head turns by its row's own angles, from either layout."""
    torch.manual_seed(rows)
    x, cos, sin = torch.randn(rows, 6, 64), torch.randn(rows, 64), torch.randn(rows, 64)
    first, second = x.chunk(2, dim=-1)
    expected = x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]

    for given in (x.transpose(0, 1), x.transpose(0, 1).contiguous()):
        got = cpu_rotate(given, cos, sin, threads)
        torch.testing.assert_close(got.transpose(0, 1), expected, rtol=1e-6, atol=1e-6)


def test_heads_of_bfloat16_are_rotated_with_every_rounding():
    """Each product and their sum is rounded, as where each is a tensor: all bits are those."""
    torch.manual_seed(0)
    x, (cos, sin) = torch.randn(300, 6, 64).bfloat16(), torch.randn(2, 300, 64).bfloat16()
    first, second = x.chunk(2, dim=-1)
    expected = x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]

    assert torch.equal(cpu_rotate(x.transpose(0, 1), cos, sin, 2).transpose(0, 1), expected)


def test_what_they_do_not_know_is_refused():
    """Dtypes and sizes that would be read as something else raise before any address is used."""
    x, weight = torch.randn(3, 32), torch.ones(32)
    for bad in [(x.double(), weight), (x, weight.double()), (x, weight[:16]), (x[:, :20], weight[:20])]:
        with pytest.raises(ValueError):  # noqa: PT011
            cpu_norm(*bad, 1e-6)
    heads, angles = torch.randn(2, 3, 32), torch.randn(3, 32)
    for bad in [
        (heads.double(), angles, angles),
        (heads, angles.double(), angles),
        (heads, angles[:2], angles),
        (heads, angles, angles[:, :16]),
        (heads[..., :16], angles[:, :16], angles[:, :16]),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011
            cpu_rotate(*bad)
