"""Fused layers: they compute what they computed, and only where they are proved to."""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from quire_engine.model.fused import layers
from quire_engine.model.fused.layers import FusedGate, FusedNorm, fuse_layers
from quire_engine.model.fused.linear import fuse_linear
from quire_kernels.cpu import host_library
from tests.support.host_library import need_host_library

need_host_library()


def norm(kind, width=64):
    """A norm with a weight that is not all ones."""
    layer = kind(width)
    torch.nn.init.normal_(layer.weight, 1.0, 0.3)
    return layer


def mlp(act="silu", bias=False, dtype=torch.float32):
    """A gated feed-forward layer, its products packed."""
    torch.manual_seed(3)
    config = LlamaConfig(hidden_size=48, num_attention_heads=3, intermediate_size=80, hidden_act=act, mlp_bias=bias)
    layer = torch.nn.Sequential(LlamaMLP(config)).requires_grad_(False).to(dtype)
    fuse_linear(layer)
    return layer


def differing(got, expected):
    """The share of numbers that differ, none by more than one place."""
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=1e-4)
    return float((got != expected).float().mean())


@pytest.mark.parametrize("kind", [LlamaRMSNorm, GemmaRMSNorm, Olmo2RMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 65, 700])
def test_same_norm(rows, dtype, kind):
    """A norm that was replaced gives what it gave, for rows of any size: one that adds 1 to its weight, one that rounds
    before it and one that does not."""
    model = torch.nn.Sequential(norm(kind)).to(dtype)
    x = (torch.randn(1, rows, 64) * torch.logspace(-2, 2, rows).unsqueeze(-1)).to(dtype)
    with torch.no_grad():
        expected = model(x)
        assert fuse_layers(model) == 1
        assert isinstance(model[0], FusedNorm)
        if dtype == torch.float32:
            torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
        else:
            assert differing(model(x), expected) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 65, 700])
def test_same_gate(rows, bias, dtype):
    """A gated layer that was replaced gives what it gave, with its activation inside the products."""
    model = mlp(bias=bias, dtype=dtype)
    x = torch.randn(1, rows, 48).to(dtype)
    with torch.no_grad():
        expected = model(x)
        assert fuse_layers(model) == 1
        assert isinstance(model[0], FusedGate)
        if dtype == torch.float32:
            torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
        else:
            assert differing(model(x), expected) < 1e-2


@pytest.mark.parametrize("fault", ["norm", "gate"])
def test_another_rounding_is_not_the_same(monkeypatch, fault):
    """In bfloat16 a fused layer that leaves out a rounding on the way is refused."""
    if fault == "norm":
        monkeypatch.setattr(
            layers,
            "cpu_norm",
            lambda x, w, eps, *_: (w * x.float() * (x.float().pow(2).mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype),
        )
        model = torch.nn.Sequential(norm(LlamaRMSNorm)).to(torch.bfloat16)
    else:
        model = mlp(dtype=torch.bfloat16)
        parts = [getattr(model[0], name).weight.float() for name in ("up_proj", "gate_proj")]

        def unrounded(x, *_):
            up, gate = (x.float() @ weight.T for weight in parts)
            return [(up * torch.nn.functional.silu(gate)).to(x.dtype)]

        monkeypatch.setattr(layers, "cpu_linear", unrounded)
    assert fuse_layers(model) == 0


class Gated(LlamaRMSNorm):
    """A norm that may be given a gate, which the fused one could not take."""

    def forward(self, x, gate=None):
        """Like its base, then times the gate."""
        out = super().forward(x)
        return out if gate is None else out * gate


@pytest.mark.parametrize(
    "layer",
    [
        norm(Gated),
        torch.nn.LayerNorm(64, bias=False),
        norm(LlamaRMSNorm).to(torch.half),
        norm(LlamaRMSNorm, 50),  # not a multiple of the vectors
        mlp("gelu")[0],
        LlamaMLP(LlamaConfig(hidden_size=48, num_attention_heads=3, intermediate_size=80)),  # not packed
    ],
    ids=["gated", "layer norm", "float16", "width", "gelu", "not packed"],
)
def test_others_stay(layer):
    """A layer that looks alike and computes something else, or has no fused form, is left alone."""
    model = torch.nn.Sequential(layer).requires_grad_(False)
    assert fuse_layers(model) == 0
    assert model[0] is layer


def test_without_a_kernel_norms_stay(monkeypatch):
    """Where there is no compiled norm, norms stay; a gated layer is fused all the same."""

    def missing():
        raise host_library.NoHostLibrary("no compiler")

    monkeypatch.setattr("quire_kernels.cpu.norm.load", missing)
    model = torch.nn.ModuleDict({"norm": norm(LlamaRMSNorm), "mlp": mlp()[0]}).requires_grad_(False)

    assert fuse_layers(model) == 1
    assert isinstance(model["norm"], LlamaRMSNorm)
