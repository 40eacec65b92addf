"""Published prompts: rendered to exactly the tokens that requests with them begin with, or refused in a sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from quire_services.cli.prepare import PrepareError, main, prepare
from quire_services.config.loader import load_config
from quire_services.config.settings import Config, KvstoreSettings, PublishedPrompt, ServeSettings
from quire_services.gateway.published_prompts.preamble import Preamble
from quire_services.gateway.published_prompts.prompt_files import PublishError
from quire_services.gateway.published_prompts.rendered_prompt import common_prefix, render_prompt
from quire_services.gateway.templates.chat_template import PromptEncoder
from quire_services.process.model import served_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that takes at most 64 tokens."""
    return make_model(
        tmp_path_factory.mktemp("prepare") / "model", vocab=64, hidden=32, heads=2, kv_heads=1, max_len=64
    )


def _config(model: Path, *prompts: Path) -> Config:
    published = tuple(PublishedPrompt(file, "public", file.stem) for file in prompts)
    return replace(load_config({}, {}), serve=ServeSettings(model=str(model)), published=published)


def test_a_published_prompt_is_what_every_chat_begins_with(model: Path, tmp_path: Path) -> None:
    """Tokens end where chats begin to differ, whatever role is next; every chat with that message begins with them."""
    prompt = tmp_path / "agent.txt"
    prompt.write_text("w1 w2 w3\n")
    tokens = prepare(_config(model, prompt))["published"][0]["tokens"]
    encoder = PromptEncoder.load(model)
    messages = [{"role": "system", "content": "w1 w2 w3"}, {"role": "user", "content": "w9 w8"}]
    chat = encoder.encode_chat(messages, None, None, "t")

    assert tokens == chat[: len(tokens)]
    assert encoder.decode(tokens) == "<bos> <system> w1 w2 w3 <end>"


def test_a_model_without_a_template_publishes_plain_text(model: Path, tmp_path: Path) -> None:
    """Where there is no chat template, plain prompts that begin with the text share it."""
    shutil.copytree(model, tmp_path / "plain", ignore=shutil.ignore_patterns("chat_template.jinja", "*.safetensors"))
    encoder = PromptEncoder.load(tmp_path / "plain")

    assert encoder.decode(render_prompt(encoder, Preamble.of_system("w1 w2 w3 "), 64).tokens) == "w1 w2 w3"


def test_dtype_auto_is_settled_in_the_layout(model: Path, tmp_path: Path) -> None:
    """The kvstore, which reads no checkpoint, gets the type by name."""
    half = shutil.copytree(model, tmp_path / "half")
    fields = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(fields | {"dtype": "bfloat16"}))
    assert prepare(_config(half))["layout"]["dtype"] == "bfloat16"
    wide = replace(_config(half), kvstore=KvstoreSettings(dtype="float32"))
    assert prepare(wide)["layout"]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("wanted", "attention", "has", "chosen"),
    [
        ("auto", "cpu", False, "bfloat16"),
        ("auto", "cpu", True, "float16"),
        ("auto", "triton", False, "float16"),
        ("float32", "cpu", False, "float32"),
        ("float16", "triton", False, "float16"),
        ("float16", "cpu", False, ""),
    ],
)
def test_a_type_without_arithmetic_is_told_before_any_engine(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wanted: str,
    attention: str,
    has: bool,
    chosen: str,
) -> None:
    """A checkpoint in float16 is computed in bfloat16 where engines compute on a processor without float16, with a
    sentence that says what that costs; what was asked for is refused there, with what to take instead."""
    half = shutil.copytree(model, tmp_path / "half")
    fields = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(fields | {"dtype": "float16"}))
    monkeypatch.setattr(served_model, "has_float16", lambda: has)
    out = tmp_path / "prepared.json"
    arguments = [f"--model={half}", f"--dtype={wanted}", f"--attention={attention}", f"--out={out}"]
    assert main(arguments) == (0 if chosen else 2)
    said = capsys.readouterr().err
    if not chosen:
        assert "kvstore.dtype = bfloat16, of the same size with 3 bits less precision, or float32" in said
        return
    assert json.loads(out.read_text())["layout"]["dtype"] == chosen
    assert ("computed in bfloat16, of the same size with 3 bits less precision" in said) is (chosen == "bfloat16")


def test_layout_and_length_are_the_models(model: Path) -> None:
    """The file holds the layout the engines will compute, and the model's length."""
    prepared = prepare(_config(model))

    assert (prepared["max_model_len"], prepared["model"]) == (64, "model")
    assert prepared["layout"]["block_size"] == 16
    assert prepared["layout"]["num_kv_heads"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"  \n", "empty"), (b"\xff\xfe\x00", "UTF-8"), (b"w1 " * 80, "do not fit a model of 64")],
)
def test_a_prompt_that_cannot_be_published_is_refused(
    model: Path, tmp_path: Path, content: bytes | None, words: str
) -> None:
    """A missing, empty, unreadable or overlong prompt is named with the reason."""
    prompt = tmp_path / "agent.txt"
    if content is not None:
        prompt.write_bytes(content)
    with pytest.raises(PublishError, match=r"agent\.txt.*" + words):
        prepare(_config(model, prompt))


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    """A path that holds no model is named."""
    with pytest.raises(PrepareError, match=r"holds no config\.json"):
        prepare(_config(tmp_path))


def test_common_prefix_of_rows() -> None:
    """The prefix ends at the first difference or the shortest row."""
    assert common_prefix([[1, 2, 3], [1, 2, 4]]) == [1, 2]
    assert common_prefix([[1, 2, 3], [1]]) == [1]
    assert common_prefix([[1], [2]]) == []
