"""Packed experts of a mixture: they compute what they computed, and only where they are proved to."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from quire_engine.model.fused import experts
from quire_engine.model.fused.experts import FusedExperts, fuse_experts
from quire_kernels.cpu.host_library import NoHostLibrary
from tests.support.host_library import need_host_library

need_host_library()


def mixture(dtype=torch.float32, act="silu"):
    """The experts of one layer."""
    torch.manual_seed(4)
    config = Qwen3MoeConfig(hidden_size=48, moe_intermediate_size=80, num_experts=6, hidden_act=act)
    layer = Qwen3MoeExperts(config)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return torch.nn.Sequential(layer).requires_grad_(False).to(dtype)


def rows(dtype, count=40):
    """Rows, which experts they choose, and the weights of these."""
    torch.manual_seed(count)
    index = torch.stack([torch.randperm(6)[:2] for _ in range(count)])
    return torch.randn(count, 48).to(dtype), index, torch.rand(count, 2).to(dtype)


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-5)])
def test_same_mixture(dtype, limit, count):
    """Experts that were replaced give what they gave."""
    model, given = mixture(dtype), rows(dtype, count)
    expected = model[0](*given)

    assert fuse_experts(model) == 1
    assert isinstance(model[0], FusedExperts)
    torch.testing.assert_close(model[0](*given), expected, rtol=limit, atol=limit)


@pytest.mark.parametrize("kind", ["activation", "float16", "no compiler"])
def test_other_mixtures_stay(monkeypatch, kind):
    """Experts of another activation or type are left alone, and all where there is no compiled kernel."""
    model = mixture(torch.half if kind == "float16" else torch.float32, "gelu" if kind == "activation" else "silu")
    if kind == "no compiler":

        def missing(*_):
            raise NoHostLibrary("no compiler")

        monkeypatch.setattr(experts, "Experts", missing)
    assert fuse_experts(model) == 0
    assert type(model[0]) is Qwen3MoeExperts
