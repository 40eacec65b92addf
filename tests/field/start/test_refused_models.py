"""Checkpoints that cannot be served: one line names the file, the cause and what to do, before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.models.tiny import make_model
from quire_engine.checkpoint.model_files import check_directory, check_file
from quire_engine.checkpoint.refusal import ModelRefused
from tests.support.quire_command import Quire

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
NOBODY = 65534
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that nothing is wrong with."""
    return make_model(tmp_path_factory.mktemp("whole") / "model", vocab=64, hidden=32, heads=2, kv_heads=1, max_len=64)


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def config(**fields: object) -> Change:
    """config.json with other fields."""

    def change(model: Path) -> None:
        file = model / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def bare(kind: str, **fields: object) -> Change:
    """Nothing in config.json but the type of model."""
    return lambda model: (model / "config.json").write_text(json.dumps({"model_type": kind, **fields}))


def file(name: str, content: str | bytes | None) -> Change:
    """A file with this content, or gone."""

    def change(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        if content is not None:
            (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def both(*changes: Change) -> Change:
    """One change after another."""
    return lambda model: [change(model) for change in changes]


def cut(model: Path) -> None:
    """Half a download."""
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[: len(content) // 2])


def dangling(name: str) -> Change:
    """A link into a hub cache that was cleared."""
    return both(file(name, None), lambda model: (model / name).symlink_to("../../blobs/0abc"))


def shards(*lost: str, absent: bool = False) -> Change:
    """The weights in two files with an index, some of which were lost on the way."""

    def change(model: Path) -> None:
        tensors = sorted(load_file(model / WEIGHTS).items())
        (model / WEIGHTS).unlink()
        names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        where = {}
        for name, part in zip(names, (tensors[:5], tensors[5:]), strict=True):
            save_file(dict(part), model / name)
            where |= {key: name for key, _ in part}
        if absent:
            where["model.layers.7.mlp.up_proj.weight"] = names[1]
        (model / INDEX).write_text(json.dumps({"weight_map": where}))
        for name in lost:
            (model / name).unlink()

    return change


def typed(name: str, dtype: torch.dtype) -> Change:
    """A weight of another type."""

    def change(model: Path) -> None:
        tensors = load_file(model / WEIGHTS)
        tensors[name] = tensors[name].to(dtype)
        save_file(tensors, model / WEIGHTS)

    return change


WEIGHTLESS = file(WEIGHTS, None)
CASES: dict[str, tuple[Change, str]] = {
    "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "json says .* with gptq.*dequantise"),
    "awq": (config(quantization_config={"quant_method": "awq", "bits": 4}), "with awq, which takes .* gptqmodel"),
    "gptq of old": (file("quantize_config.json", '{"bits": 4}'), "quantize_config.json says .* with gptq"),
    "bitsandbytes": (config(quantization_config={"load_in_4bit": True}), "with bitsandbytes"),
    "unheard of": (config(quantization_config={"quant_method": "zip"}), "with zip"),
    "mlx": (config(quantization={"group_size": 64, "bits": 4}), "quantised"),
    "modelopt": (
        file("hf_quant_config.json", '{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}'),
        "hf_quant_config.json says .* with FP8",
    ),
    "fp8 unsaid": (typed("model.layers.0.mlp.up_proj.weight", torch.float8_e4m3fn), "up_proj.weight of type F8_E4M3"),
    "int8 unsaid": (typed("model.layers.0.mlp.up_proj.weight", torch.int8), "up_proj.weight of type I8"),
    "pointer of weights": (file(WEIGHTS, POINTER), "model.safetensors is a git-lfs pointer.*git lfs pull"),
    "pointer of config": (file("config.json", POINTER), "config.json is a git-lfs pointer"),
    "pointer of tokenizer": (file("tokenizer.json", POINTER), "tokenizer.json is a git-lfs pointer"),
    "web page": (file(WEIGHTS, "<!DOCTYPE html><title>404"), "model.safetensors is a web page"),
    "cut off": (cut, r"model.safetensors is cut off: \d+ of \d+ bytes: download it again"),
    "cut in the header": (lambda m: os.truncate(m / WEIGHTS, 100), "is cut off.*its header alone"),
    "no safetensors": (file(WEIGHTS, b"\xff" * 64), "model.safetensors is not a safetensors file"),
    "empty weights": (file(WEIGHTS, ""), "model.safetensors is empty"),
    "empty config": (file("config.json", ""), "config.json is empty"),
    "config is no JSON": (file("config.json", "{"), "config.json is not JSON"),
    "config without type": (config(model_type=None), "config.json names no model_type"),
    "newer model": (config(model_type="llama99"), "knows no model_type 'llama99'"),
    "code of its own": (config(model_type="mine", auto_map={"AutoModel": "m.M"}), "code of its own"),
    "pickled": (both(WEIGHTLESS, file("pytorch_model.bin", "x")), "only pickled weights.*convert"),
    "gguf": (both(WEIGHTLESS, file("model-q4.gguf", "GGUF")), "only GGUF weights"),
    "gguf alone": (both(file("config.json", None), file("model-q4.gguf", "GGUF")), "json: it is a GGUF model"),
    "maker's format": (lambda m: (m / WEIGHTS).rename(m / "consolidated.safetensors"), "maker's own format"),
    "no weights": (WEIGHTLESS, "holds no .safetensors file"),
    "adapter": (both(file("config.json", None), file("adapter_config.json", "{}")), "LoRA.*merge it into its base"),
    "adapter beside a model": (file("adapter_config.json", "{}"), "makes this an adapter.*or remove that file"),
    "adapter weights": (lambda m: (m / WEIGHTS).rename(m / "adapter_model.safetensors"), "only an adapter"),
    "no tokenizer": (file("tokenizer.json", None), "holds no tokenizer.*download"),
    "sentencepiece": (both(file("tokenizer.json", None), file("tokenizer.model", "\n")), "SentencePiece.*pretrained"),
    "blob gone": (dangling(WEIGHTS), "model.safetensors is a link to ../../blobs/0abc, which is not there"),
    "tokenizer's blob gone": (dangling("tokenizer.json"), "tokenizer.json is a link to"),
    "config's blob gone": (dangling("config.json"), "config.json is a link to"),
    "shard lost": (shards("model-00002-of-00002.safetensors"), "lacks 1 of the 2 files .*model-00002-of-00002"),
    "index lost": (shards(INDEX), "shards need their model.safetensors.index.json"),
    "index names more": (shards(absent=True), r"names 1 tensors .*model\.layers\.7\.mlp\.up_proj\.weight"),
    "classifier": (config(architectures=["LlamaForSequenceClassification"]), "Classification: it has no head"),
    "several head sizes": (
        config(model_type="gemma4_text", head_dim=16, global_head_dim=32),
        "heads of different sizes",
    ),
    "alibi": (bare("bloom"), "AttentionInterface: it adds ALiBi biases"),
    "alibi, otherwise": (bare("mpt"), "AttentionInterface: it adds ALiBi biases"),
    "own attention": (bare("falcon", alibi=False), "does not take its attention from AttentionInterface$"),
    "own attention, otherwise": (bare("gptj"), "does not take its attention from AttentionInterface$"),
    "local attention": (bare("gpt_neo"), "does not take its attention from AttentionInterface$"),
    "no attention": (bare("rwkv"), "layers without attention .*: a recurrent state, which needs a pool of states"),
    "an encoder": (bare("vit"), "only text decoders"),
}  # fmt: skip


@pytest.mark.source("huggingface/transformers#27923")
@pytest.mark.source("unslothai/unsloth#4417")
@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_is_refused_in_one_line(quire: Quire, model: Path, tmp_path: Path, case: str) -> None:
    """`quire prepare` says in a line what is wrong and what to do, from the files alone."""
    change, words = CASES[case]
    change(model)
    ran = quire("prepare", "--model", model, "--out", tmp_path / "prepared.json")
    ran.complains(str(model))
    with pytest.raises(ModelRefused, match=words):
        raise ModelRefused(ran.err.strip())


@pytest.mark.source("huggingface/transformers#27923")
def test_the_same_model_is_accepted_whole(quire: Quire, model: Path, tmp_path: Path) -> None:
    """Nothing is said of a checkpoint that is whole, in one file or in two."""
    for change in (lambda _model: None, shards()):
        change(model)
        ran = quire("prepare", "--model", model, "--out", tmp_path / "prepared.json")
        assert (ran.code, ran.out, ran.err) == (0, "", "")


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A directory that any user may enter, seen by one who owns nothing in it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place)
        os.seteuid(0)


@pytest.mark.source("huggingface/transformers#19420")
def test_what_may_not_be_read_is_said(stranger: Path) -> None:
    """Which user may not read what, and by which rights: of a directory, of a file, of a file below a directory."""
    (stranger / "closed").mkdir(mode=0o700)
    for path in (stranger / "closed" / "config.json", stranger / "config.json", stranger / "weights"):
        path.write_text("{}")
        path.chmod(0o600)
    os.seteuid(NOBODY)

    with pytest.raises(ModelRefused, match=rf"closed cannot be read by user {NOBODY} \(mode 0700, owner 0\)"):
        check_directory(stranger / "closed")
    with pytest.raises(ModelRefused, match=rf"weights cannot be read by user {NOBODY} \(mode 0600, owner 0\)"):
        check_file(stranger / "weights")
    with pytest.raises(ModelRefused, match=rf"json cannot be read by user {NOBODY}, because of .*closed \(mode 0700"):
        check_file(stranger / "closed" / "config.json")
