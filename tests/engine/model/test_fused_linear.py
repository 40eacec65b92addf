"""Packed linear layers: they compute what they computed, and only where they can."""

from __future__ import annotations

import pytest
import torch

from quire_engine.model.fused import linear
from quire_engine.model.fused.linear import MATES, PackedLinear, fuse_linear
from quire_kernels.cpu.host_library import NoHostLibrary
from tests.support.host_library import need_host_library

need_host_library()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_same_products(rows, bias, dtype):
    """A packed layer gives what the layer gave, whatever the number of rows, and its weight can be read back."""
    torch.manual_seed(rows)
    model = torch.nn.Sequential(torch.nn.Linear(130, 77, bias=bias, dtype=dtype))
    x = torch.randn(1, rows, 130, dtype=dtype)
    with torch.no_grad():
        expected, weight = model(x), model[0].weight.clone()

        assert fuse_linear(model) == 1
        assert isinstance(model[0], PackedLinear)
        limits = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-3}
        torch.testing.assert_close(model(x), expected, **limits)
    assert torch.equal(model[0].weight, weight)


class Attention(torch.nn.Module):
    """Asks for queries, keys and values as modelling code does, in an order of its own and of rows of its own."""

    def __init__(self, order=MATES, others=()):
        super().__init__()
        self.order, self.others = order, others
        for name, width in zip(MATES, (48, 16, 16), strict=True):
            setattr(self, name, torch.nn.Linear(32, width))

    def forward(self, x):
        """All three results, side by side."""
        return torch.cat([getattr(self, name)(x + 1 if name in self.others else x) for name in self.order], -1)


@pytest.mark.parametrize("order", [MATES, MATES[::-1], MATES + MATES])
@pytest.mark.parametrize("others", [(), ("k_proj",), ("v_proj",)])
def test_queries_keys_and_values_of_the_same_rows(order, others):
    """Whatever the order in which they are asked for, and of whatever rows, each gives its own product."""
    torch.manual_seed(1)
    model = Attention(order, others)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = [model(x), model(2 * x), model(x)]
        assert fuse_linear(model) == 3
        for rows, right in zip((x, 2 * x, x), expected, strict=True):
            torch.testing.assert_close(model(rows), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("others", "calls"), [((), 4), (("v_proj",), 2 + 3 * 3)])
def test_one_call_computes_them(monkeypatch, others, calls):
    """The kernel is called once; of a model that asks for other rows, once a product from the second step on."""
    seen = []
    kernel = linear.cpu_linear
    monkeypatch.setattr(linear, "cpu_linear", lambda *a: seen.append(1) or kernel(*a))
    model = torch.nn.Sequential(Attention(others=others))
    with torch.no_grad():
        fuse_linear(model)
        seen.clear()
        for _ in range(4):
            model(torch.randn(3, 32))
    assert len(seen) == calls


def test_rows_in_strides():
    """Inputs need not be contiguous."""
    model = torch.nn.Sequential(torch.nn.Linear(32, 16))
    x = torch.randn(5, 64)[:, ::2]
    with torch.no_grad():
        expected = model(x)
        fuse_linear(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_other_layers_stay():
    """Other dtypes and classes derived from Linear are left alone: what those do is not known; so are odd pairs."""

    class Special(torch.nn.Linear):
        pass

    others = {"f16": torch.nn.Linear(8, 8, dtype=torch.half), "odd": torch.nn.Linear(7, 8, dtype=torch.bfloat16)}
    model = torch.nn.ModuleDict({**others, "special": Special(8, 8)})
    kinds = [type(layer) for layer in model.values()]

    assert fuse_linear(model) == 0
    assert [type(layer) for layer in model.values()] == kinds


@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_falls_back(monkeypatch, fault):
    """Where there is no compiled kernel, or it multiplies wrongly, layers stay as they are."""

    class Broken(PackedLinear):
        def __init__(self, *parts):
            if fault == "missing":
                raise NoHostLibrary("no C compiler")
            super().__init__(*parts)

        def forward(self, x):
            return 1.01 * super().forward(x)

    monkeypatch.setattr(linear, "PackedLinear", Broken)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))

    assert fuse_linear(model) == 0
    assert type(model[0]) is torch.nn.Linear
