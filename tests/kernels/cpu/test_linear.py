"""The compiled linear layers on a CPU: right, and the same bits for a row whatever is computed beside it."""

from __future__ import annotations

import pytest
import torch

from quire_kernels.cpu.linear import PackedWeight, cpu_linear
from tests.support.host_library import need_host_library

need_host_library()

SHAPES = [
    (1, 1),
    (16, 64),
    (130, 77),
    (512, 65),
    (1100, 200),
]  # inputs, outputs: within a panel and a stretch, and over


def layer(inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """200 rows, a weight and a bias."""
    torch.manual_seed(inputs + outputs)
    return torch.randn(200, inputs), torch.randn(outputs, inputs), torch.randn(outputs)


def close(got: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether each row's error is some roundings of its largest number."""
    return bool(((got - exact).abs().amax(1) <= 1e-5 * exact.abs().amax(1) + 1e-6).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula(shape: tuple[int, int]) -> None:
    """With and without a bias, to rounding; the weight can be read back."""
    x, weight, bias = layer(*shape)
    packed = PackedWeight.of(weight)
    exact = x.double() @ weight.double().T

    for given, expected in ((None, exact), (bias, exact + bias.double())):
        assert close(cpu_linear(x, packed, given), expected)
    assert torch.equal(packed.dense(), weight)


@pytest.mark.parametrize("biased", [False, True])
def test_gated(biased: bool) -> None:
    """A gate's silu is multiplied in, for gates of any size."""
    x, weight, bias = layer(130, 77)
    x = x * torch.logspace(-3, 2, 200)[:, None]
    given = bias if biased else None
    up, gate = (x.double() @ (sign * weight.double().T) + (bias if biased else 0) for sign in (1, -1))

    got = cpu_linear(x, PackedWeight.of(weight), given, PackedWeight.of(-weight), given)

    assert close(got, up * torch.nn.functional.silu(gate))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_the_same_beside_any_others(shape: tuple[int, int], gated: bool) -> None:
    """For every number of rows up to 20, at every place, by any number of threads, the same bits."""
    x, weight, bias = layer(*shape)
    packed, gate = PackedWeight.of(weight), PackedWeight.of(weight.flip(1)) if gated else None
    whole = cpu_linear(x, packed, bias, gate, threads=3)

    for count in [*range(1, 21), 97, 150]:
        for first in (0, 3, 50):
            got = cpu_linear(x[first : first + count], packed, bias, gate, threads=1 + count % 3)
            assert torch.equal(got, whole[first : first + count]), (count, first)


def test_libraries_do_not_promise_that() -> None:
    """The comparison can fail: torch's own products of one row differ from those of many, in some shape."""
    differ = 0
    for shape in [*SHAPES, (4000, 300), (3000, 64)]:
        x, weight, _ = layer(*shape)
        whole = x @ weight.T
        differ += sum(not torch.equal(x[i : i + 1] @ weight.T, whole[i : i + 1]) for i in range(0, 200, 9))
    assert differ


def test_what_it_does_not_know_is_refused() -> None:
    """Dtypes and shapes that would be read as something else raise before any address is used."""
    x, weight, bias = layer(16, 64)
    packed = PackedWeight.of(weight)
    for bad in [
        (x.double(), packed),
        (x[:, :8], packed),
        (x, packed, bias[:8]),
        (x, packed, bias.double()),
        (x, packed, torch.zeros(128)[::2]),
        (x, packed, bias, PackedWeight.of(weight[:8])),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011
            cpu_linear(*bad)
    for wrong in (weight.double(), weight[0], weight[:0]):
        with pytest.raises(ValueError, match="float32 matrix"):
            PackedWeight.of(wrong)
    assert cpu_linear(x[:0], packed).shape == (0, 64)
