"""Weights that a checkpoint does not have: refused by name, never replaced by random numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.models.tiny import make_model
from quire_engine.model.model import ModelRefused, load_model

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], object]
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that nothing is wrong with; its head is a matrix of its own."""
    folder = tmp_path_factory.mktemp("whole")
    return make_model(folder / "model", vocab=64, hidden=32, heads=2, kv_heads=1, max_len=64)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose head is its embedding."""
    folder = tmp_path_factory.mktemp("tied")
    return make_model(folder / "model", "gemma2", vocab=64, hidden=32, heads=2, kv_heads=1, max_len=64)


def spoilt(model: Path, tmp_path: Path, change: Change) -> Path:
    """A copy of ``model`` with other weights."""
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors")
    return copy


def without(*names: str) -> Change:
    """These are not there."""
    return lambda tensors: [tensors.pop(name) for name in names]


def also(**extra: torch.Tensor) -> Change:
    """These are there too."""
    return lambda tensors: tensors.update({name.replace("__", "."): tensor for name, tensor in extra.items()})


def moved(prefix: str, to: str) -> Change:
    """Weights under another name, as of a text model inside a larger one."""

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            tensors[to + name.removeprefix(prefix)] = tensors.pop(name)

    return change


def reward(tensors: Tensors) -> None:
    """A head with one output instead of the vocabulary's."""
    del tensors["lm_head.weight"]
    tensors["score.weight"] = torch.zeros(1, 32)


def not_a_number(tensors: Tensors) -> None:
    tensors[UP][3, 3] = torch.nan


CASES: dict[str, tuple[Change, str]] = {
    "no head": (without("lm_head.weight"), r"lacks 1 weights of LlamaForCausalLM \(lm_head\.weight\)"),
    "no embedding": (without("model.embed_tokens.weight"), r"lacks 1 .*embed_tokens"),
    "no last norm": (without("model.norm.weight"), r"lacks 1 .*model\.norm\.weight"),
    "several": (without(UP, "model.norm.weight", "lm_head.weight"), "lacks 3 "),
    "reward model": (reward, r"lacks 1 .*lm_head\.weight\) and holds 1 that are none of it \(score\.weight\)"),
    "text part of a larger model": (moved("model.", "thinker.model."), r"lacks 20 .*and holds 20 .*thinker\.model"),
    "half a model elsewhere": (moved("model.layers.1.", "second.layers.1."), "lacks 9 .*and holds 9"),
    "scales of fp8": (also(**{UP + "_scale": torch.ones(1)}), r"holds 1 scales .*up_proj\.weight_scale\).*dequantise"),
    "zero points": (also(**{UP + "_zero_point": torch.ones(1)}), "holds 1 scales or packed weights"),
    "scales of a cache": (also(model__layers__0__self_attn__k_scale=torch.ones(1)), "holds 1 scales"),
    "adapter inside": (also(**{UP.replace("weight", "lora_A.weight"): torch.ones(2, 32)}), "no place for.*merge the"),
    "more layers": (also(model__layers__2__mlp__up_proj__weight=torch.ones(2, 2)), "no place for.*different models"),
    "value head": (also(v_head__weight=torch.ones(1, 32)), r"no place for \(v_head\.weight\)"),
    "other shapes": (lambda t: t.update({UP: torch.ones(8, 32)}), r"up_proj\.weight is \[8, 32\], not \[64, 32\]"),
    "damaged": (not_a_number, r"1 weights hold values that are no finite numbers in float32 \(.*up_proj\.weight\)"),
}  # fmt: skip


@pytest.mark.source("vllm-project/vllm#11802")
@pytest.mark.source("huggingface/transformers#30381")
@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_that_is_not_whole_is_refused(whole: Path, tmp_path: Path, case: str) -> None:
    """What is missing or left over is named and counted."""
    change, words = CASES[case]
    with pytest.raises(ModelRefused, match=words):
        load_model(spoilt(whole, tmp_path, change))


@pytest.mark.source("huggingface/transformers#3799")
@pytest.mark.parametrize(
    "change",
    [
        also(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8)),
        also(vision_tower__layers__0__weight=torch.ones(4), multi_modal_projector__weight=torch.ones(4)),
        also(mtp__layers__0__mlp__up_proj__weight=torch.ones(4)),
    ],
    ids=["old buffers", "towers", "further heads"],
)
def test_what_a_text_decoder_never_runs_may_be_left_over(whole: Path, tmp_path: Path, change: Change) -> None:
    """Buffers that are computed anew, towers of other modalities and multi-token heads refuse no model."""
    model = load_model(spoilt(whole, tmp_path, change))

    assert torch.equal(model.module.model.norm.weight, load_file(whole / "model.safetensors")["model.norm.weight"])


@pytest.mark.source("huggingface/transformers#3799")
def test_a_tied_head_is_not_missing(tied: Path, tmp_path: Path) -> None:
    """A model whose head is its embedding loads without a head, and not without the embedding."""
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    load_model(tied)
    with pytest.raises(ModelRefused, match=r"lacks .*embed_tokens"):
        load_model(spoilt(tied, tmp_path, without("model.embed_tokens.weight")))


@pytest.mark.source("OpenRLHF/OpenRLHF#180")
def test_a_reward_model_with_a_tied_head_is_refused(tied: Path, tmp_path: Path) -> None:
    """Nothing is missing there, but what is left over says that it is no language model."""
    with pytest.raises(ModelRefused, match=r"no place for \(score\.weight\).*something else than text generation"):
        load_model(spoilt(tied, tmp_path, also(score__weight=torch.ones(1, 32))))


@pytest.mark.source("vllm-project/vllm#11802")
def test_an_engine_says_it_in_its_last_line(whole: Path, tmp_path: Path) -> None:
    """The process ends with 2 and one line, without a traceback."""
    model = spoilt(whole, tmp_path, without("lm_head.weight"))
    command = [sys.executable, "-m", "quire_services.cli", "engine", f"--model={model}", f"--run-dir={tmp_path}"]
    ran = subprocess.run([*command, "--attention=cpu"], capture_output=True, text=True, timeout=100, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1), ran.stderr
    assert ran.stderr.startswith(f"quire engine: {model}: the checkpoint lacks 1 weights"), ran.stderr
    assert json.loads((model / "config.json").read_text())["tie_word_embeddings"] is False
