"""The detokeniser alone, against decoding all tokens at once."""

from __future__ import annotations

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from quire_engine.checkpoint.token_bytes import TokenBytes, byte_alphabet
from quire_services.gateway.text.detokenizer import Detokenizer


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    """A tokenizer as SentencePiece models have it: words begin with a mark, other bytes fall back."""
    words = ["\u2581the", "\u2581fox", "\u2581", "x", "the"]
    vocabulary = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), *((w, -1.0) for w in words)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    return tokenizer


def pieces(tokenizer: Tokenizer, ids: list[int], prompt: list[int]) -> list[str]:
    """What each token gives, and the flush."""
    stream = Detokenizer(tokenizer, prompt)
    return [*(stream.push(token) for token in ids), stream.flush()]


def test_random_bytes_come_out_as_decoding_at_once_gives_them(tokenizer: Tokenizer) -> None:
    """Whatever tokens a model makes, valid text or not, nothing is lost and nothing is doubled."""
    chance = random.Random(3)
    for _ in range(200):
        ids = [chance.randrange(5, 320) for _ in range(chance.randint(1, 30))]
        assert "".join(pieces(tokenizer, ids, [])) == tokenizer.decode(ids)


def test_the_first_word_keeps_its_space_after_a_prompt(sentencepiece: Tokenizer) -> None:
    """An answer continues the prompt's text; at the very beginning the mark is no space."""
    the, fox = (sentencepiece.token_to_id(word) for word in ("\u2581the", "\u2581fox"))

    assert "".join(pieces(sentencepiece, [fox, the], [the])) == " fox the"
    assert "".join(pieces(sentencepiece, [fox, the], [])) == "fox the"


def test_bytes_that_fall_back_wait_for_their_character(sentencepiece: Tokenizer) -> None:
    """Four byte tokens make one character; cut short they make a replacement."""
    ids = [sentencepiece.token_to_id(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    prompt = [sentencepiece.token_to_id("\u2581the")]

    assert pieces(sentencepiece, ids, prompt) == ["", "", "", "🙂", ""]
    assert "\ufffd" in pieces(sentencepiece, ids[:3], prompt)[-1]


def test_a_prompt_that_ends_inside_a_character_is_stepped_over(tokenizer: Tokenizer) -> None:
    """The decoder is primed with whole characters only, or not at all."""
    ids = tokenizer.encode("🙂").ids
    assert "".join(pieces(tokenizer, tokenizer.encode(" fox").ids, ids[:2])) == " fox"


def test_text_goes_out_as_soon_as_it_cannot_change(tokenizer: Tokenizer) -> None:
    """A byte that begins no character is a replacement at once; only what may still become a character waits."""
    f0, ff, x = (_byte_token(tokenizer, byte) for byte in (0xF0, 0xFF, ord("x")))

    assert pieces(tokenizer, [ff, ff, f0, x, f0], []) == ["\ufffd", "\ufffd", "", "\ufffdx", "", "\ufffd"]


def test_whole_characters_of_a_run_of_fallback_bytes_stay(sentencepiece: Tokenizer) -> None:
    """What went out before the run turned out to be no UTF-8 is not lost; of the rest each byte is a replacement."""
    run = [*"é".encode(), 0xE2, 0x82, 0xFF]
    ids = [sentencepiece.token_to_id(f"<0x{byte:02X}>") for byte in run]

    assert pieces(sentencepiece, ids, []) == ["", "é", "", "", "\ufffd\ufffd\ufffd", ""]


def test_tokens_without_text_change_nothing(sentencepiece: Tokenizer) -> None:
    """Skipped special tokens and ids outside the vocabulary give no text, and the next word keeps its space."""
    fox, eos = (sentencepiece.token_to_id(word) for word in ("\u2581fox", "<eos>"))
    ids = [fox, *[eos, 9999] * 100, fox]

    assert "".join(pieces(sentencepiece, ids, [])) == "fox fox"
    stream = Detokenizer(sentencepiece, [], skip_special=False)
    assert "".join(map(stream.push, [fox, eos, fox])) == "fox<eos> fox"


def _byte_token(tokenizer: Tokenizer, byte: int) -> int:
    stand_in = next(char for char, value in byte_alphabet().items() if value == byte)
    token: int = tokenizer.token_to_id(stand_in)
    return token


def test_bytes_of_single_tokens(tokenizer: Tokenizer, sentencepiece: Tokenizer) -> None:
    """The bytes of an encoding's tokens, joined, are the text's; special tokens are their own name."""
    text = "naïve 🙂 fox"
    of = TokenBytes(tokenizer).of
    assert b"".join(map(of, tokenizer.encode(text).ids)).decode() == text
    assert (of(0), of(10_000)) == (b"<bos>", b"")

    of = TokenBytes(sentencepiece).of
    assert of(sentencepiece.token_to_id("<0xF0>")) == b"\xf0"
    assert of(sentencepiece.token_to_id("\u2581fox")) == b" fox"
