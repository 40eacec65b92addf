"""The layout of a model directory: an identity that changes with the weights and with nothing else."""

from __future__ import annotations

import json
import shutil

import pytest

from bench.families.shapes import small_config
from bench.models.tiny import make_model
from quire_engine.checkpoint import layout as layout_module
from quire_engine.checkpoint.architecture import ModelRefused, kv_shape
from quire_engine.checkpoint.demands.token_cost import token_cost
from quire_engine.checkpoint.layout import layout_of, max_model_len
from quire_kv import Layout


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A tiny model."""
    return make_model(tmp_path_factory.mktemp("m") / "tiny", "qwen3", head_dim=48, max_len=777)


def test_fields(directory):
    """Sizes come from the configuration."""
    layout = layout_of(directory, "bfloat16", 32)

    assert (layout.num_layers, layout.num_kv_heads, layout.head_dim, layout.block_size) == (2, 2, 48, 32)
    assert (layout.model, layout.dtype) == ("tiny", "bfloat16")
    assert json.loads(layout.rope)["rope_type"] == "default"
    assert max_model_len(directory) == 777


def test_a_copy_has_the_same_layout(directory, tmp_path):
    """Where a model lies, and what tools noted beside it, changes nothing."""
    copy = shutil.copytree(directory, tmp_path / "elsewhere")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}, indent=8))

    assert layout_of(copy, "float32", 16).differences(layout_of(directory, "float32", 16)) == []


@pytest.mark.parametrize("whole_file", [1 << 30, 1 << 10], ids=["whole", "sampled"])
def test_other_weights_are_another_layout(directory, tmp_path, monkeypatch, whole_file):
    """Another seed, or one changed byte in a hashed place, gives another identity."""
    monkeypatch.setattr(layout_module, "WHOLE_FILE", whole_file)
    monkeypatch.setattr(layout_module, "SAMPLE_BYTES", 1 << 10)
    copy = shutil.copytree(directory, tmp_path / "copy")
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    seeded = make_model(tmp_path / "seeded", "qwen3", head_dim=48, max_len=777, seed=1)

    for other in (copy, seeded):
        assert layout_of(other, "float32", 16).differences(layout_of(directory, "float32", 16)) == ["weights"]


def test_other_configuration_is_another_layout(directory, tmp_path):
    """A field that changes what is computed changes the identity."""
    copy = shutil.copytree(directory, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))

    assert layout_of(copy, "float32", 16).differences(layout_of(directory, "float32", 16)) == ["weights"]


def test_a_directory_without_weights_is_refused(directory, tmp_path):
    """No safetensors file, no layout: pickled weights are never read."""
    shutil.copy(directory / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")

    with pytest.raises(ModelRefused, match="holds no"):
        layout_of(tmp_path, "float32", 16)


def test_a_broken_configuration_is_refused(tmp_path):
    """A config.json that transformers cannot read is a refusal, not a traceback."""
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(ModelRefused):
        layout_of(tmp_path, "float32", 16)


def test_a_token_costs_what_its_keys_and_values_take():
    """For a model of latents both are said: what is kept for each head, and what the latents would be."""
    config = small_config("deepseek_v3", {"num_key_value_heads": 4})
    layers, heads, width = kv_shape(config)
    assert (layers, heads, width) == (4, 4, 32 + 16)
    layout = Layout("m", "w", "null", "", "bfloat16", 16, layers, heads, width)

    assert token_cost(config, layout) == (
        "3,072 bytes of keys and values (MLA: kept for each head; its latents would be 384 bytes)"
    )
    assert token_cost(small_config("llama"), layout) == "3,072 bytes of keys and values"
