"""Quantised checkpoints: served as floats, with the numbers that their scales say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig

from bench.models.tiny import make_model
from quire_engine.backends import choose_backend
from quire_engine.checkpoint.layout import layout_of
from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.checkpoint.weights.dtype import compute_dtype
from quire_engine.model import weights
from quire_engine.model.model import load_model
from quire_engine.model.selftest.selftest import self_test

WEIGHTS, BLOCK = "model.safetensors", 32
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
Tensors = dict[str, torch.Tensor]
Change = Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor]]  # what stands for a weight, and what it is worth


def rewrite(model: Path, change: Change, **quantised: object) -> Tensors:
    """Quantise the projections of a model; returns what each of them is worth."""
    stored: Tensors = {}
    meant: Tensors = {}
    for name, weight in load_file(model / WEIGHTS).items():
        if weight.dim() == 2 and "proj" in name:
            parts, meant[name] = change(name, weight.float())
            stored |= parts
        else:
            stored[name] = weight.to(torch.bfloat16)
    save_file(stored, model / WEIGHTS, metadata={"format": "pt"})
    fields = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(fields | {"quantization_config": quantised, "dtype": "bfloat16"}))
    return meant


def fp8_blocks(model: Path) -> Tensors:
    """As Qwen's and DeepSeek's FP8 checkpoints."""

    def change(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        rows, columns = weight.shape
        blocks = weight.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        scale = blocks.abs().amax((1, 3)) / 448
        wide = scale[:, None, :, None]
        packed = (blocks / wide).to(torch.float8_e4m3fn)
        parts = {name: packed.reshape(rows, columns), f"{name}_scale_inv": scale}
        return parts, (packed.float() * wide).reshape(rows, columns)

    how = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic", "fmt": "e4m3"}
    return rewrite(model, change, **how)


def int4_groups(model: Path) -> Tensors:
    """As llm-compressor's W4A16 checkpoints."""

    def change(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        rows, columns = weight.shape
        groups = weight.reshape(rows, columns // BLOCK, BLOCK)
        scale = (groups.abs().amax(-1) / 7).to(torch.bfloat16)
        whole = (groups / scale.float()[..., None]).round().clamp(-8, 7)
        nibbles = (whole.reshape(rows, columns // 8, 8) + 8).to(torch.int64)
        packed = (nibbles << (4 * torch.arange(8))).sum(-1)
        base = name.removesuffix(".weight")
        parts = {
            f"{base}.weight_packed": torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32),
            f"{base}.weight_scale": scale,
            f"{base}.weight_shape": torch.tensor([rows, columns]),
        }
        return parts, (whole * scale.float()[..., None]).reshape(rows, columns)

    weight = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": BLOCK}
    return compressed(model, change, "pack-quantized", weight)


def fp8_channels(model: Path) -> Tensors:
    """As llm-compressor's FP8 checkpoints, with scales of activations and of keys and values beside the weights'."""

    def change(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        scale = weight.abs().amax(-1, keepdim=True) / 448
        packed, base = (weight / scale).to(torch.float8_e4m3fn), name.removesuffix(".weight")
        parts = {name: packed, f"{base}.weight_scale": scale, f"{base}.input_scale": torch.ones(1)}
        if name.endswith("k_proj.weight"):
            parts[f"{base.removesuffix('.k_proj')}.k_scale"] = torch.ones(1)
        return parts, packed.float() * scale

    return compressed(
        model, change, "float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
    )


def compressed(model: Path, change: Change, form: str, weight: object) -> Tensors:
    """A checkpoint of compressed-tensors."""
    group = {"targets": ["Linear"], "weights": weight, "input_activations": None, "format": form}
    status = {"quantization_status": "compressed", "ignore": ["lm_head"], "format": form}
    return rewrite(model, change, quant_method="compressed-tensors", config_groups={"group_0": group}, **status)


@pytest.mark.parametrize("quantise", [fp8_blocks, int4_groups, fp8_channels])
def test_weights_are_worth_what_their_scales_say(tmp_path: Path, quantise: Callable[[Path], Tensors]) -> None:
    """In float32 exactly where their scales are float32, else to bfloat16's rounding; and the paged model is proved as
    any other."""
    if quantise is not fp8_blocks:
        pytest.importorskip("compressed_tensors")
    directory = make_model(tmp_path / "model", hidden=64, heads=2, kv_heads=1, vocab=96, max_len=128)
    meant = quantise(directory)
    assert compute_dtype(directory, "auto") == "bfloat16"
    for dtype in ("float32", "bfloat16"):
        error = 0.0 if dtype == "float32" and quantise is not int4_groups else 2**-8
        model = load_model(directory, dtype)
        modules = dict(model.module.named_modules())
        for name, expected in meant.items():
            got = modules[name.removesuffix(".weight")].weight.float()
            assert ((got - expected).abs() <= error * expected.abs()).all(), name
        assert {weight.dtype for weight in model.module.parameters()} == {getattr(torch, dtype)}
        assert model.quantised.startswith("dequantised from ")
    layout = layout_of(directory, "bfloat16", 16)
    self_test(model, layout, lambda arena: choose_backend("cpu").backend(arena, model))


def test_mxfp4_experts_are_worth_what_their_scales_say(tmp_path: Path) -> None:
    """The experts of gpt-oss: two numbers of four bits in a byte, and an exponent for 32 of them."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_local_experts": 4,
        "vocab_size": 96,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_experts_per_tok": 2}
    config = GptOssConfig(
        **sizes, **heads, max_position_embeddings=128, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    draw = torch.Generator().manual_seed(0)
    stored: Tensors = {}
    meant: Tensors = {}
    for name, weight in load_file(tmp_path / WEIGHTS).items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[name] = weight
            continue
        experts, inner, outer = weight.shape
        blocks = torch.randint(0, 256, (experts, outer, inner // 32, 16), dtype=torch.uint8, generator=draw)
        scales = torch.randint(118, 123, (experts, outer, inner // 32), dtype=torch.uint8, generator=draw)
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        numbers = E2M1[torch.stack([blocks & 15, blocks >> 4], -1).long()].reshape(experts, outer, inner // 32, 32)
        values = numbers * torch.exp2(scales.float() - 127)[..., None]
        meant[name] = values.reshape(experts, outer, inner).transpose(1, 2)
    save_file(stored, tmp_path / WEIGHTS, metadata={"format": "pt"})
    fields = json.loads((tmp_path / "config.json").read_text())
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    fields["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    (tmp_path / "config.json").write_text(json.dumps(fields))

    model = load_model(tmp_path, "float32")
    found = dict(model.module.named_parameters())
    assert len(meant) == 4
    assert all(torch.equal(found[name], expected) for name, expected in meant.items())
    assert model.quantised == "dequantised from mxfp4"


def test_scales_without_a_method_are_refused(tmp_path: Path) -> None:
    """What config.json does not speak of is not applied, and would make noise of the weights."""
    directory = make_model(tmp_path / "model", hidden=64, heads=2, kv_heads=1, vocab=96, max_len=128)
    fp8_blocks(directory)
    fields = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if k != "quantization_config"}))
    with pytest.raises(ModelRefused, match="holds quantised weights"):
        load_model(directory)


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that brings it."""
    directory = make_model(tmp_path / "model", hidden=64, heads=2, kv_heads=1, vocab=96, max_len=128)
    fp8_blocks(directory)
    monkeypatch.setattr("quire_engine.checkpoint.weights.quantisation.find_spec", lambda _name: None)
    with pytest.raises(ModelRefused, match=r"with fp8, which takes the library accelerate: pip install .*quantised"):
        load_model(directory)


def test_scales_of_weights_are_never_left_over() -> None:
    """Only those of activations and of stored keys and values may be, and only of a quantised checkpoint."""
    report = {"missing_keys": [], "mismatched_keys": []}
    config = GptOssConfig(num_hidden_layers=1)
    idle = {"model.layers.0.self_attn.q_proj.input_scale", "model.layers.0.self_attn.v_scale"}
    weights.judge_report({**report, "unexpected_keys": idle}, config, quantised=True)
    with pytest.raises(ModelRefused, match="scales or packed weights"):
        weights.judge_report({**report, "unexpected_keys": idle}, config)
    left = {"model.layers.0.self_attn.q_proj.weight_scale"}
    with pytest.raises(ModelRefused, match="scales or packed weights"):
        weights.judge_report({**report, "unexpected_keys": left}, config, quantised=True)
