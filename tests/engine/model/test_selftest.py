"""What the self-test at load accepts, and what it refuses and names."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.models.tiny import make_model
from quire_engine.attention import hook
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.model import ModelRefused, load_model
from quire_engine.model.selftest.selftest import self_test
from tests.support.families import FAMILIES, family_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A small Gemma-2: windows, soft-cap and full layers by turns."""
    return family_model(tmp_path_factory.mktemp("models"), "gemma2")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_pass(family, dtype, tmp_path):
    """Every family passes in float32 and bfloat16, and the model's backend is restored."""
    path = family_model(tmp_path, family)
    model, layout = load_model(path, dtype), layout_of(path, dtype, 16)
    backend = CpuAttention(torch.zeros(layout.shape(1)))
    model.use(backend)
    self_test(model, layout)

    assert model.backend is backend


@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_block_sizes_pass(directory, block_size):
    """The self-test fits any block size."""
    self_test(load_model(directory), layout_of(directory, "float32", block_size))


def break_layer(monkeypatch, layer: int, **changed):
    """Let the backend compute ``layer`` with other options than the model asked for."""
    right = CpuAttention.attend

    def wrong(self, index, query, plan, **options):
        return right(self, index, query, plan, **(options | changed if index == layer else options))

    monkeypatch.setattr(CpuAttention, "attend", wrong)


@pytest.mark.parametrize(
    ("layer", "changed"),
    [(2, {"scale": 0.105}), (0, {"window": None}), (1, {"window": 64}), (3, {"softcap": None}), (2, {"window": 63})],
)
def test_a_wrong_layer_is_named(directory, monkeypatch, layer, changed):
    """A layer computed with a wrong scale, window or soft-cap is refused by its module's name."""
    break_layer(monkeypatch, layer, **changed)

    with pytest.raises(ModelRefused, match=rf"layer {layer} \(model\.layers\.{layer}\.self_attn\) differs"):
        self_test(load_model(directory), layout_of(directory, "float32", 16))


def test_a_wrong_write_is_named(directory, monkeypatch):
    """Values stored in the wrong layer of the arena are refused too."""
    right = CpuAttention.write_kv
    monkeypatch.setattr(
        CpuAttention, "write_kv", lambda self, layer, k, v, plan: right(self, layer, k, v * (layer != 1), plan)
    )

    with pytest.raises(ModelRefused, match=r"layer 1 "):
        self_test(load_model(directory), layout_of(directory, "float32", 16))


def test_a_wrong_head_is_refused(directory):
    """Logits that differ although every layer agrees are refused as such."""
    model = load_model(directory)
    head = model.module.get_output_embeddings()
    calls = iter(range(1000))
    head.register_forward_hook(lambda _m, _i, out: out + (torch.arange(out.shape[-1]) % 7) * (next(calls) > 4))

    with pytest.raises(ModelRefused, match="logits, though"):
        self_test(model, layout_of(directory, "float32", 16))


def save(config, path):
    """A random model of any configuration, written to ``path``."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def test_alibi_is_refused(tmp_path):
    """A model whose attention has a bias of its own never reaches a request."""
    config = AutoConfig.for_model(
        "bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=2, max_position_embeddings=64
    )
    path = save(config, tmp_path)

    with pytest.raises(
        ModelRefused, match="bloom model does not take its attention from AttentionInterface: it adds AL"
    ):
        load_model(path)


def test_learned_positions_pass(tmp_path):
    """A model without RoPE runs: positions are given explicitly."""
    config = AutoConfig.for_model("gpt2", vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    path = save(config, tmp_path)
    self_test(load_model(path), layout_of(path, "float32", 16))


def test_sinks_pass(tmp_path):
    """A model with attention sinks and alternating windows runs."""
    config = AutoConfig.for_model(
        "gpt_oss",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=20,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=None,
    )
    path = save(config, tmp_path)
    self_test(load_model(path), layout_of(path, "float32", 16))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"num_kv_shared_layers": 1}, "share another layer's keys"),
    ],
)
def test_configurations_are_refused_before_loading(tmp_path, fields, reason):
    """What the configuration already rules out is refused with its reason, without weights."""
    path = make_model(tmp_path, "qwen2")
    config = json.loads((path / "config.json").read_text()) | fields
    (path / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelRefused, match=reason):
        layout_of(path, "float32", 16)
    with pytest.raises(ModelRefused, match=reason):
        load_model(path)


def call_with(model, layout, monkeypatch, **extra):
    """Run the self-test with every attention call given further arguments."""
    right = hook.paged_attention
    monkeypatch.setitem(
        hook.AttentionInterface._global_mapping, hook.ATTENTION_NAME, lambda *a, **k: right(*a, **(k | extra))
    )
    self_test(model, layout)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"position_bias": torch.zeros(1)}, "asks for 'position_bias'"),
        ({"is_causal": False}, "not causal"),
        ({"dropout": 0.1}, "dropout"),
        ({"sliding_window": 33}, "asks for a window of 33, its configuration says"),
    ],
)
def test_unknown_wishes_of_a_layer_are_refused(directory, monkeypatch, extra, reason):
    """An argument that this attention does not know, or one that contradicts the configuration, is named."""
    with pytest.raises(ModelRefused, match=reason):
        call_with(load_model(directory), layout_of(directory, "float32", 16), monkeypatch, **extra)


def test_a_layout_of_another_shape_is_refused(directory):
    """Layers that do not fit the layout are refused by number."""
    other = layout_of(directory, "float32", 16)
    object.__setattr__(other, "num_kv_heads", 4)

    with pytest.raises(ModelRefused, match="layer 0 has queries"):
        self_test(load_model(directory), other)
