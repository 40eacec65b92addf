"""The tokenizer of the model's own file, where another was made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from quire_services.gateway.templates.chat_template import LoadError, PromptEncoder
from quire_services.gateway.text.tokenizer_file import own_tokenizer

VOCABULARY = ["<unk>", "<s>", "</s>", "▁", "▁▁", "h", "i", "hi", "▁hi", "<0xE4>", "<0xBD>", "<0xA0>"]
MERGES = [("▁", "▁"), ("h", "i"), ("▁", "hi")]


def spaced() -> Tokenizer:
    """Spaces count, at the beginning too."""
    vocabulary = {piece: place for place, piece in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def folder_of(tokenizer: Tokenizer, folder: Path, kind: str) -> Path:
    """A model directory with the tokenizer as a class of transformers."""
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, "legacy": True, **tokens}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"])
def test_texts_have_the_tokens_of_the_file(tmp_path: Path, kind: str) -> None:
    """Of whatever class it is said to be; texts that differ in spaces differ in tokens, and it is said once."""
    own = spaced()
    encoder = PromptEncoder.load(folder_of(own, tmp_path, kind))

    for text in ("hi", " hi", "  hi", "hi hi", "你", "\n", "<s>hi</s>", "<s> hi"):
        assert encoder.encode(text, add_special_tokens=False) == own.encode(text, add_special_tokens=False).ids
    assert encoder.encode(" hi") != encoder.encode("hi")
    assert sum("tokenizer.json" in note for note in encoder.notes) == (kind != "PreTrainedTokenizerFast")
    assert encoder.end_ids == {2}


def test_what_is_put_around_a_text_stays(tmp_path: Path) -> None:
    """A text still begins with the token that texts of this model begin with."""
    own = spaced()
    own.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    assert PromptEncoder.load(folder_of(own, tmp_path, "LlamaTokenizer")).encode(" hi") == [1, 4, 7]


def test_tokens_that_a_configuration_adds(tmp_path: Path) -> None:
    """They are kept, with their ids; where they would get others, what is given is kept."""
    own = spaced()
    own.save(str(tmp_path / "tokenizer.json"))
    given = spaced()
    given.normalizer = normalizers.Replace(" ", "▁")
    given.add_special_tokens([AddedToken("<more>", normalized=False)])

    found = own_tokenizer(tmp_path, given)
    assert found.encode("<more> hi", add_special_tokens=False).ids == [len(VOCABULARY), 4, 7]
    given.add_special_tokens(["<x>"])
    other = Tokenizer(models.BPE({"<x>": 0, "h": 1}, []))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    other.add_special_tokens(["<x>"])
    assert own_tokenizer(tmp_path, other) is None


def test_a_model_without_the_file(tmp_path: Path) -> None:
    """What transformers makes is all there is."""
    assert own_tokenizer(tmp_path, spaced()) is None


def test_a_tokenizer_that_cannot_encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the model, whatever the library raises."""

    def fails(*_: object) -> None:
        raise RuntimeError("no such piece\nat all")

    folder = folder_of(spaced(), tmp_path, "LlamaTokenizer")
    monkeypatch.setattr("quire_services.gateway.templates.chat_template.own_tokenizer", fails)
    with pytest.raises(LoadError) as refused:
        PromptEncoder.load(folder)
    assert str(refused.value) == f"cannot use the tokenizer of {tmp_path}: RuntimeError: no such piece"
