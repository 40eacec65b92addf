"""Layers of a model on lesser processors: the same bits from every library that this one can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from quire_kernels.cpu import host_library, linear, norm, rotate
from quire_kernels.cpu.linear import PackedWeight, Product, cpu_linear
from quire_kernels.cpu.prebuilt import levels_of
from tests.support.host_library import need_host_library

need_host_library()


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes the kernels those of a level."""

    def force(level: str) -> None:
        monkeypatch.setenv(host_library.FORCED, level)
        library = host_library.load.__wrapped__()
        for module in (linear, norm, rotate):
            monkeypatch.setattr(module, "load", lambda: library)
        linear._pairs.cache_clear()

    yield force
    linear._pairs.cache_clear()


def results(dtype: torch.dtype) -> list[torch.Tensor]:
    """Products with bias and gate, norms and rotations; weights are packed anew, as each library wants them."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    found = []
    for inputs, outputs in ((2, 1), (130, 77), (1100, 200)):
        weight, gate = (PackedWeight.of(random(outputs, inputs)) for _ in range(2))
        bias = random(outputs).float()
        found += cpu_linear(random(20, inputs), (Product(weight, bias), Product(weight, bias, gate, bias)), 2)
    found += [norm.cpu_norm(random(30, 64), random(64).float(), 1e-5, 1, rounds) for rounds in (False, True)]
    return [*found, rotate.cpu_rotate(random(4, 9, 64), random(9, 64), random(9, 64))]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", levels_of())
def test_a_lesser_processor_computes_the_same_bits(
    level: str, dtype: torch.dtype, forced: Callable[[str], None]
) -> None:
    """With narrower vectors, and without products of bfloat16 pairs."""
    expected = results(dtype)
    forced(level)
    assert all(map(torch.equal, results(dtype), expected))
