"""Layers fused for a GPU, in Triton's interpreter: they give what they gave, and only where they are proved to."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.llama import modeling_llama
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from bench.models.tiny import make_model
from quire_engine.attention.hook import Step, running
from quire_engine.attention.plan import build_plan
from quire_engine.attention.triton import TritonAttention
from quire_engine.checkpoint.architecture import read_config
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.fused_gpu import fuse_gpu_layers, fuse_gpu_rotary, layers, rotary
from quire_engine.model.fused_gpu.layers import GpuGate, GpuNorm
from quire_engine.model.fused_gpu.trial import agree, near, rows_for_trial
from quire_engine.model.model import Model
from quire_engine.model.selftest.selftest import self_test
from quire_engine.model.weights import load_module
from tests.kernels.batch import DEVICE

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def norm(kind, dtype, width=96):
    """A norm with a weight that is not all ones."""
    torch.manual_seed(1)
    layer = kind(width)
    torch.nn.init.normal_(layer.weight, 1.0, 0.3)
    return layer.to(DEVICE, dtype)


def mlp(act, dtype, bias=False):
    """A gated feed-forward layer."""
    torch.manual_seed(3)
    config = LlamaConfig(hidden_size=48, num_attention_heads=3, intermediate_size=80, hidden_act=act, mlp_bias=bias)
    return LlamaMLP(config).requires_grad_(False).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "form"), [(LlamaRMSNorm, "rounded"), (GptOssRMSNorm, "exact"), (GemmaRMSNorm, "one_plus")]
)
def test_a_norm_gets_the_form_of_its_modelling_file(kind, form, dtype):
    """Where a narrow type tells the forms apart it is the one that rounds alike, and the weight is the layer's own."""
    layer = norm(kind, dtype)
    model = torch.nn.Sequential(layer)
    with torch.no_grad():
        assert fuse_gpu_layers(model) == 1
        fused = model[0]
        assert isinstance(fused, GpuNorm)
        assert fused.weight is layer.weight
        assert dtype == torch.float32 or fused.form == form
        x = rows_for_trial(96, layer.weight).repeat(1, 9, 1)
        assert agree(fused(x), layer(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("act", "bias"), [("silu", False), ("gelu_pytorch_tanh", True), ("relu", False)])
def test_a_gate_gets_its_activation(act, bias, dtype):
    """Products stay torch's; activation and product are one launch."""
    layer = mlp(act, dtype, bias)
    model = torch.nn.Sequential(layer)
    with torch.no_grad():
        assert fuse_gpu_layers(model) == 1
        assert isinstance(model[0], GpuGate)
        x = torch.randn(1, 70, 48).to(DEVICE, dtype)
        assert near(model[0](x), layer(x))


class Gated(LlamaRMSNorm):
    """A norm that may be given a gate, which the fused one could not take."""

    def forward(self, x, gate=None):
        """Like its base, then times the gate."""
        out = super().forward(x)
        return out if gate is None else out * gate


class Halved(LlamaRMSNorm):
    """A norm that looks like the others and computes something else."""

    def forward(self, x):
        """Half of its base's."""
        return super().forward(x) / 2


@pytest.mark.parametrize(
    "layer",
    [
        norm(Gated, torch.bfloat16),
        norm(Halved, torch.bfloat16),
        torch.nn.LayerNorm(64, bias=False).to(DEVICE),
        torch.nn.Sequential(torch.nn.Linear(8, 8)).to(DEVICE)[0],
        mlp("gelu", torch.float32),
        mlp("tanh", torch.bfloat16),
    ],
    ids=["gated", "halved", "layer norm", "linear", "exact gelu", "tanh"],
)
def test_others_stay_as_they_are(layer):
    """A layer that looks alike and computes something else, or has no fused form, is left alone."""
    model = torch.nn.Sequential(layer).requires_grad_(False)
    assert fuse_gpu_layers(model) == 0
    assert model[0] is layer


def test_weights_of_another_type_than_the_rows_stay_unfused():
    """Norms that keep float32 weights in a narrower model give another type, or round elsewhere."""
    model = torch.nn.Sequential(torch.nn.Linear(96, 96).to(DEVICE, torch.bfloat16), norm(LlamaRMSNorm, torch.float32))
    assert fuse_gpu_layers(model.requires_grad_(False)) == 0


@pytest.fixture
def rotary_of_llama(monkeypatch):
    """Llama's function, put back afterwards."""
    original = getattr(modeling_llama.apply_rotary_pos_emb, "before_quire", modeling_llama.apply_rotary_pos_emb)
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", original)
    return original


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotations_are_fused_within_a_step_only(dtype, rotary_of_llama, monkeypatch):
    """Elsewhere, and for what the kernel does not know, the model's own function runs."""
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, intermediate_size=80, num_hidden_layers=1, vocab_size=9)
    assert fuse_gpu_rotary(modeling_llama.LlamaModel(config).to(DEVICE, dtype)) == 1
    calls = []
    right = rotary.rotate
    monkeypatch.setattr(rotary, "rotate", lambda *given: calls.append(1) or right(*given))
    q, k = (torch.randn(1, 5, heads, 32).to(DEVICE, dtype).transpose(1, 2) for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 5, 32).to(DEVICE, dtype)
    expected = rotary_of_llama(q, k, cos, sin)
    outside = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin)
    assert not calls
    with running(Step(config, None, None)):
        inside = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin)
        assert calls == [1]
        named = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1)
        assert calls == [1]
    for found in (outside, inside, named):
        assert all(agree(*pair) for pair in zip(found, expected, strict=True))


def test_a_rotation_of_neighbours_is_left_alone(rotary_of_llama, monkeypatch):
    """A file that pairs the numbers of a head otherwise keeps its function."""

    def neighbours(q, k, cos, sin):
        def one(x):
            return x * cos.unsqueeze(1) + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * sin.unsqueeze(1)

        return one(q), one(k)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", neighbours)
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, intermediate_size=80, num_hidden_layers=1, vocab_size=9)
    assert fuse_gpu_rotary(modeling_llama.LlamaModel(config)) == 0
    assert modeling_llama.apply_rotary_pos_emb is neighbours


ROW = torch.zeros(1, dtype=torch.int64)
MADE_BY_INTERPRETER = 2  # operations of PyTorch around each kernel of ours at most, where it is interpreted


class Without:
    """No attention: what comes out are the queries."""

    def __init__(self, arena):
        self.arena = arena

    def write_kv(self, *_):
        """Nothing is stored."""

    def attend(self, _layer, query, *_, **__):
        """As attention gives it."""
        return query.transpose(0, 1)


class Launches(TorchDispatchMode):
    """Counts the operations of PyTorch that launch a kernel: all but views and new tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        made = func.overloadpacket.__name__.startswith(("empty", "new_empty", "detach", "_unsafe_view", "lift"))
        self.count += not made and not any(value.alias_info is not None for value in returns)
        return result


def test_few_launches_are_left_in_a_layer(tmp_path: Path, rotary_of_llama, monkeypatch):
    """Seven products, two sums, and one launch for each norm, for rotation and gate; attention is not counted."""
    kernels = []
    for room, name in ((layers, "norm"), (layers, "gate"), (rotary, "rotate")):
        right = getattr(room, name)
        monkeypatch.setattr(room, name, lambda *given, right=right: kernels.append(right) or right(*given))
    found = {}
    for fused, count in product((False, True), (1, 3)):  # the function of the file is replaced for all models
        directory = make_model(tmp_path / f"{fused}{count}", hidden=32, heads=2, kv_heads=1, vocab=64, layers=count)
        module = load_module(directory, read_config(directory), torch.bfloat16, DEVICE)
        if fused:
            fuse_gpu_layers(module)
            fuse_gpu_rotary(module)
        model = Model(module)
        arena = torch.zeros(layout_of(directory, "bfloat16", 16).shape(2), device=DEVICE).bfloat16()
        model.use(Without(arena))
        kernels.clear()
        with Launches() as launches:
            model.forward(torch.zeros(5, dtype=torch.int64), build_plan([np.zeros(1, np.int32)], [0], [5], 16), ROW)
        found[fused, count] = launches.count, len(kernels)
    (of_torch, none), (left, of_ours) = (
        [(many - one) / 2 for one, many in zip(found[fused, 1], found[fused, 3], strict=True)]
        for fused in (False, True)
    )
    assert (none, of_ours) == (0, 4)
    assert of_torch - left >= 24
    assert left <= 9 + MADE_BY_INTERPRETER * of_ours


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_fused_layers_passes_the_self_test(dtype, tmp_path: Path, rotary_of_llama, monkeypatch):
    """Over Triton attention and with all kinds of layers fused; and a rotation that is wrong in a step does not."""
    config = read_config(make_model(tmp_path, hidden=32, heads=2, kv_heads=1, vocab=64))
    module = load_module(tmp_path, config, getattr(torch, dtype), DEVICE)
    assert fuse_gpu_layers(module) == 3 * config.num_hidden_layers + 1
    assert fuse_gpu_rotary(module) == 1
    model, layout = Model(module), layout_of(tmp_path, dtype, 16)
    self_test(model, layout, lambda arena: TritonAttention(arena, model.heads))
    right = rotary.rotate
    monkeypatch.setattr(rotary, "rotate", lambda q, k, cos, sin: right(q, k, sin, cos))
    with pytest.raises(ValueError, match="self-test"):
        self_test(model, layout, lambda arena: TritonAttention(arena, model.heads))
