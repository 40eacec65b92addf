"""Norms, rotary positions and gates against their references in PyTorch."""

from __future__ import annotations

import pytest
import torch

from quire_kernels.gpu.layers.gate import ACTIVATIONS, gate, gate_ref
from quire_kernels.gpu.layers.norm import FORMS, norm, norm_ref
from quire_kernels.gpu.layers.rotate import rotate, rotate_ref
from tests.kernels.batch import DEVICE

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Numbers of very different size in each row."""
    draw = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-2, 1, shape[-2] if len(shape) > 1 else 1)[:, None]
    return (torch.randn(shape, generator=draw) * scales).view(shape).to(dtype).to(DEVICE)


def assert_rounded_alike(got: torch.Tensor, want: torch.Tensor) -> None:
    """In float32 equal but for the last bits; in a narrower type nearly all equal, the others next to each other."""
    if want.dtype == torch.float32:
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        return
    small = 1e-6 * float(want.abs().max())
    torch.testing.assert_close(got, want, rtol=torch.finfo(want.dtype).eps, atol=small)
    assert float(((got - want).abs() > small).double().mean()) < 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(3, 7, 128), (1, 5, 80), (2, 3000)])
def test_norms(shape: tuple[int, ...], form: str, dtype: torch.dtype) -> None:
    """Rows of any length, several in a program, each rounded where its form rounds."""
    x, weight = random(*shape, dtype=dtype), 1 + 0.3 * random(shape[-1], dtype=dtype, seed=1)
    assert_rounded_alike(norm(x, weight, 1e-6, form), norm_ref(x, weight, 1e-6, form))


def test_a_norm_of_zeros_is_zeros() -> None:
    """The epsilon keeps it finite."""
    x = torch.zeros(2, 48, device=DEVICE)
    assert not norm(x, torch.ones(48, device=DEVICE), 1e-6, "rounded").any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates(activation: str, dtype: torch.dtype) -> None:
    """Over several programs, the last of them in part; large arguments overflow to nothing else."""
    gated, up = random(1, 50, 70, dtype=dtype), random(1, 50, 70, dtype=dtype, seed=1)
    gated[0, 0, :4] = torch.tensor([-200.0, 200.0, -80.0, 80.0])
    assert_rounded_alike(gate(gated, up, activation), gate_ref(gated, up, activation))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "tokens", "width"), [(4, 2, 19, 64), (3, 1, 1, 80), (2, 2, 33, 6)])
def test_rotations(heads: int, kv_heads: int, tokens: int, width: int, dtype: torch.dtype) -> None:
    """Queries and keys as views of packed projections, of different numbers of heads."""
    packed = random(tokens, (heads + kv_heads) * width, dtype=dtype).view(tokens, heads + kv_heads, width)
    query, key = packed.transpose(0, 1)[:heads], packed.transpose(0, 1)[heads:]
    cos, sin = random(tokens, width, dtype=dtype, seed=2), random(tokens, width, dtype=dtype, seed=3)
    for got, want in zip(rotate(query, key, cos, sin), rotate_ref(query, key, cos, sin), strict=True):
        assert got.shape == want.shape
        assert_rounded_alike(got, want)


def test_what_does_not_fit_is_named_by_layers() -> None:
    """Shapes, dtypes and strides that do not fit are refused with the argument's name."""
    x, y = torch.zeros(2, 8, device=DEVICE), torch.zeros(2, 16, device=DEVICE)[:, ::2]
    with pytest.raises(ValueError, match="weight has shape"):
        norm(x, torch.zeros(9, device=DEVICE), 1e-6, "exact")
    with pytest.raises(ValueError, match=r"the weight torch\.float16"):
        norm(x, torch.zeros(8, dtype=torch.float16, device=DEVICE), 1e-6, "exact")
    with pytest.raises(ValueError, match="form 'other'"):
        norm(x, x[0], 1e-6, "other")
    with pytest.raises(ValueError, match="up has shape"):
        gate(x, x[:1], "silu")
    with pytest.raises(ValueError, match="up has stride"):
        gate(x, y, "silu")
    with pytest.raises(ValueError, match="activation 'tanh'"):
        gate(x, x, "tanh")
    heads = torch.zeros(2, 3, 8, device=DEVICE)
    with pytest.raises(ValueError, match="cos has shape"):
        rotate(heads, heads, heads[0, :2], heads[0])
    with pytest.raises(ValueError, match="key has dtype"):
        rotate(heads, heads.half(), heads[0], heads[0])
    with pytest.raises(ValueError, match="no halves"):
        rotate(heads[..., :7], heads[..., :7], heads[0, :, :7].contiguous(), heads[0, :, :7].contiguous())
