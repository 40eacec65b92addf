"""The compiled linear layers on a CPU: right, and the same bits for a row whatever is computed beside it."""

from __future__ import annotations

import pytest
import torch

from quire_kernels.cpu.linear import PackedWeight, Product, cpu_linear
from tests.support.host_library import need_host_library

need_host_library()

# Inputs, outputs: within a panel and a stretch, and over.
SHAPES = {
    torch.float32: [(1, 1), (16, 64), (130, 77), (512, 65), (1100, 200)],
    torch.bfloat16: [(2, 1), (16, 64), (130, 77), (512, 65), (1100, 200)],
}
EACH = [(dtype, shape) for dtype, shapes in SHAPES.items() for shape in shapes]
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-8}  # of one number, relative


def layer(
    inputs: int, outputs: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """200 rows, a weight and a float32 bias."""
    torch.manual_seed(inputs + outputs)
    return torch.randn(200, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype), torch.randn(outputs)


def close(got: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether each row's error is some roundings of its largest number."""
    error, size = (got.double() - exact).abs().amax(1), exact.abs().amax(1)
    return bool((error <= ROUNDING[got.dtype] * size + 1e-6).all())


@pytest.mark.parametrize(("dtype", "shape"), EACH)
def test_equals_the_formula(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """With and without a bias, to one rounding of the result; the weight can be read back."""
    x, weight, bias = layer(*shape, dtype)
    packed = PackedWeight.of(weight)
    exact = x.double() @ weight.double().T

    both = cpu_linear(x, (Product(packed), Product(packed, bias)))

    for got, expected in zip(both, (exact, exact + bias.double()), strict=True):
        assert close(got, expected)
    assert torch.equal(packed.dense(), weight)


@pytest.mark.parametrize("biased", [False, True])
def test_gated(biased: bool) -> None:
    """A gate's silu is multiplied in, for gates of any size."""
    x, weight, bias = layer(130, 77)
    x = x * torch.logspace(-3, 2, 200)[:, None]
    given = bias if biased else None
    up, gate = (x.double() @ (sign * weight.double().T) + (bias if biased else 0) for sign in (1, -1))

    (got,) = cpu_linear(x, (Product(PackedWeight.of(weight), given, PackedWeight.of(-weight), given),))

    assert close(got, up * torch.nn.functional.silu(gate))


def test_gated_in_bfloat16_rounds_where_models_do() -> None:
    """The two products, the silu and the whole are rounded, as where each is a tensor: nearly all bits are those."""
    x, weight, _ = layer(130, 77, torch.bfloat16)
    packed, gate = PackedWeight.of(weight), PackedWeight.of(-weight)
    up, given = cpu_linear(x, (Product(packed), Product(gate)))

    (got,) = cpu_linear(x, (Product(packed, gate=gate),))

    assert (got != torch.nn.functional.silu(given) * up).float().mean() < 1e-3


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("dtype", "shape"), EACH)
def test_a_row_is_the_same_beside_any_others(dtype: torch.dtype, shape: tuple[int, int], gated: bool) -> None:
    """For every number of rows up to 20, at every place, by any number of threads, the same bits."""
    x, weight, bias = layer(*shape, dtype)
    gate = PackedWeight.of(weight.flip(1)) if gated else None
    product = Product(PackedWeight.of(weight), bias, gate)
    (whole,) = cpu_linear(x, (product,), threads=3)

    for count in [*range(1, 21), 97, 150]:
        for first in (0, 3, 50):
            products = (product, product) if count % 2 else (product,)
            for got in cpu_linear(x[first : first + count], products, threads=1 + count % 3):
                assert torch.equal(got, whole[first : first + count]), (count, first)


def test_libraries_do_not_promise_that() -> None:
    """The comparison can fail: torch's own products of one row differ from those of many, in some shape."""
    differ = 0
    for shape in [*SHAPES[torch.float32], (4000, 300), (3000, 64)]:
        x, weight, _ = layer(*shape)
        whole = x @ weight.T
        differ += sum(not torch.equal(x[i : i + 1] @ weight.T, whole[i : i + 1]) for i in range(0, 200, 9))
    assert differ


def test_products_of_one_call_have_their_own_widths() -> None:
    """Several products of the same rows, of any widths, each give what they give alone."""
    x, weight, bias = layer(130, 200)
    products = [Product(PackedWeight.of(weight[:n]), bias[:n].contiguous()) for n in (200, 1, 77, 64)]

    together = cpu_linear(x, products, threads=2)

    for got, product in zip(together, products, strict=True):
        assert torch.equal(got, cpu_linear(x, (product,))[0])


def test_what_it_does_not_know_is_refused() -> None:
    """Dtypes and shapes that would be read as something else raise before any address is used."""
    x, weight, bias = layer(16, 64)
    packed = PackedWeight.of(weight)
    half = PackedWeight.of(weight.bfloat16())
    for wrong in [
        (packed, bias[:8]),
        (packed, bias.double()),
        (packed, torch.zeros(128)[::2]),
        (packed, bias, PackedWeight.of(weight[:8])),
        (packed, bias, half),
    ]:
        with pytest.raises(ValueError, match=r"a bias|gate from"):
            Product(*wrong)
    for rows, *products in [(x.double(), packed), (x[:, :8], packed), (x, half), (x, packed, half)]:
        with pytest.raises(ValueError, match="rows"):
            cpu_linear(rows, [Product(one) for one in products])
    for wrong in (weight.double(), weight[0], weight[:0]):
        with pytest.raises(ValueError, match="matrix"):
            PackedWeight.of(wrong)
    with pytest.raises(ValueError, match="even"):
        PackedWeight.of(weight[:, :15].bfloat16())
    assert cpu_linear(x[:0], (Product(packed),))[0].shape == (0, 64)
