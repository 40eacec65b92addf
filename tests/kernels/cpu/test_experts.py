"""The compiled experts of a mixture: right, and the same bits for a token whatever others chose."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from quire_kernels.cpu.experts import Experts, cpu_experts
from quire_kernels.cpu.linear import PackedWeight, Product
from tests.support.host_library import need_host_library

need_host_library()

DTYPES = (torch.float32, torch.bfloat16)


def problem(dtype: torch.dtype, count: int = 7) -> tuple[torch.Tensor, ...]:
    """50 rows of 48 that choose three of the experts each; the fourth is chosen by none."""
    torch.manual_seed(count)
    gate, up, down = torch.randn(count, 80, 48), torch.randn(count, 80, 48), torch.randn(count, 48, 80)
    index = torch.stack([torch.randperm(count - 1)[:3] for _ in range(50)])
    index[index == 3] = count - 1
    return torch.randn(50, 48).to(dtype), index, torch.rand(50, 3).to(dtype), *(w.to(dtype) for w in (gate, up, down))


def packed(gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> Experts:
    """Of all experts."""
    pairs = zip(gate, up, strict=True)
    inner = [Product(PackedWeight.of(u), gate=PackedWeight.of(g)) for g, u in pairs]
    return Experts(inner, [Product(PackedWeight.of(one)) for one in down])


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_go_through_the_experts_that_they_chose(dtype: torch.dtype) -> None:
    """Each token's result is the weighted sum of what its experts give."""
    x, index, weight, gate, up, down = problem(dtype)
    expected = torch.zeros(50, 48, dtype=torch.float64)
    for token, (chosen, shares) in enumerate(zip(index, weight, strict=True)):
        for expert, share in zip(chosen, shares, strict=True):
            row = x[token].double()
            inner = silu(row @ gate[expert].double().T) * (row @ up[expert].double().T)
            expected[token] += share.double() * (inner @ down[expert].double().T)

    got = cpu_experts(x, index, weight, packed(gate, up, down), threads=2)

    limit = 1e-5 if dtype == torch.float32 else 2**-6
    assert got.dtype == dtype
    assert ((got - expected).abs().amax(1) <= limit * expected.abs().amax(1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_is_the_same_beside_any_others(dtype: torch.dtype) -> None:
    """The same bits, alone or among others that chose the same experts or not."""
    x, index, weight, *weights = problem(dtype)
    experts = packed(*weights)
    whole = cpu_experts(x, index, weight, experts, threads=2)

    for span in (slice(0, 1), slice(7, 9), slice(20, 50)):
        assert torch.equal(cpu_experts(x[span], index[span], weight[span], experts), whole[span])
    assert cpu_experts(x[:0], index[:0], weight[:0], experts).shape == (0, 48)


def test_what_it_does_not_know_is_refused() -> None:
    """Experts that there are not, and shapes and dtypes that would be read as something else, raise."""
    x, index, weight, *weights = problem(torch.float32)
    experts = packed(*weights)
    for bad in [
        (x, index + 1, weight),
        (x, -index, weight),
        (x, index.int(), weight),
        (x, index[:9], weight[:9]),
        (x, index, weight[:, :2]),
        (x.bfloat16(), index, weight),
        (x[:, :32], index, weight),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011
            cpu_experts(*bad, experts)
    with pytest.raises(ValueError, match="different shapes"):
        Experts(experts.products[0], experts.products[0])
