"""Packed linear layers: they compute what they computed, and only where they can."""

from __future__ import annotations

import pytest
import torch

from quire_engine.model.fused import linear
from quire_engine.model.fused.linear import PackedLinear, fuse_linear
from quire_kernels.cpu.host_library import NoHostLibrary
from tests.support.host_library import need_host_library

need_host_library()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_same_products(rows, bias):
    """A packed layer gives what the layer gave, whatever the number of rows, and its weight can be read back."""
    torch.manual_seed(rows)
    model = torch.nn.Sequential(torch.nn.Linear(130, 77, bias=bias))
    x = torch.randn(1, rows, 130)
    with torch.no_grad():
        expected, weight = model(x), model[0].weight.clone()

        assert fuse_linear(model) == 1
        assert isinstance(model[0], PackedLinear)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model[0].weight, weight)


def test_rows_in_strides():
    """Inputs need not be contiguous."""
    model = torch.nn.Sequential(torch.nn.Linear(32, 16))
    x = torch.randn(5, 64)[:, ::2]
    with torch.no_grad():
        expected = model(x)
        fuse_linear(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_other_layers_stay():
    """Other dtypes and classes derived from Linear are left alone: what those do is not known."""

    class Special(torch.nn.Linear):
        pass

    model = torch.nn.ModuleDict({"bf16": torch.nn.Linear(8, 8, dtype=torch.bfloat16), "special": Special(8, 8)})
    kinds = [type(layer) for layer in model.values()]

    assert fuse_linear(model) == 0
    assert [type(layer) for layer in model.values()] == kinds


@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_falls_back(monkeypatch, fault):
    """Where there is no compiled kernel, or it multiplies wrongly, layers stay as they are."""

    class Broken(PackedLinear):
        def __init__(self, linear):
            if fault == "missing":
                raise NoHostLibrary("no C compiler")
            super().__init__(linear)

        def forward(self, x):
            return 1.01 * super().forward(x)

    monkeypatch.setattr(linear, "PackedLinear", Broken)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))

    assert fuse_linear(model) == 0
    assert type(model[0]) is torch.nn.Linear
