"""What the benches' models say of themselves."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from bench.engine.inprocess import layout_of_model
from bench.models.sizes import _one_token_words, kv_bytes_per_token, model_directory, words


def test_words_of_a_real_tokenizer_are_one_token_each(tmp_path) -> None:
    """Behind a space, as in a prompt; pieces of words, marks and numbers are none."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    text = ["the harbour at night, the harbour at noon; 1234 boats 1234"] * 4
    tokenizer.train_from_iterator(text, BpeTrainer(vocab_size=400, show_progress=False))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = _one_token_words(tmp_path)

    assert {"the", "harbour", "night"} <= set(found)
    assert all(word.isalpha() for word in found)
    assert len(tokenizer.encode(" " + " ".join(found)).ids) == len(found)


def test_a_token_takes_what_the_layout_says() -> None:
    """Bytes of K and V are those of the layout, and the words are the vocabulary's."""
    layout = layout_of_model(model_directory("tiny"), 16)

    assert kv_bytes_per_token("tiny") * 16 == layout.block_bytes
    assert len(words("tiny")) == 505
