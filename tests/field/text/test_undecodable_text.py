"""Text that is not UTF-8: answers of broken characters stream like all others."""

from __future__ import annotations

import time

import pytest
from tokenizers import Tokenizer, decoders, models

from quire_engine.checkpoint.token_bytes import byte_alphabet
from quire_services.gateway.text.detokenizer import REPLACEMENT, Detokenizer


def byte_level() -> Tokenizer:
    """Every byte is a token of the byte-level alphabet."""
    tokenizer = Tokenizer(models.BPE(vocab=dict(byte_alphabet()), merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def fallback() -> Tokenizer:
    """Every byte is a token that falls back."""
    vocabulary = [(f"<0x{byte:02X}>", -1.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram([*vocabulary, ("<unk>", 0.0)], unk_id=256, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


@pytest.fixture(params=[byte_level, fallback])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Both kinds of vocabulary; in both a token's id is its byte."""
    made: Tokenizer = request.param()
    return made


@pytest.mark.source("sgl-project/sglang#34740", "openai/harmony#83")
def test_lone_continuation_bytes_are_sent_at_once(tokenizer: Tokenizer) -> None:
    """Each token of a long run that is no text gives its replacement character, none waits for the end."""
    stream = Detokenizer(tokenizer, [])

    assert {stream.push(0x82) for _ in range(8000)} == {REPLACEMENT}


@pytest.mark.source("sgl-project/sglang#34852", "smg-project/smg#696")
def test_a_token_costs_the_same_at_the_end_as_at_the_beginning(tokenizer: Tokenizer) -> None:
    """8,000 tokens of broken characters take the loop less than 0.2 seconds in all."""
    stream = Detokenizer(tokenizer, [])
    began = time.process_time()
    sent = sum(len(stream.push(byte)) for byte in (0xF0, 0x9F, 0x99, 0xFF) * 2000)

    assert time.process_time() - began < 0.2
    assert sent >= 2 * 2000


@pytest.mark.source("sgl-project/sglang#34740")
def test_at_most_an_unfinished_character_waits(tokenizer: Tokenizer) -> None:
    """Three bytes of four wait for the fourth; what cannot become a character any more does not."""
    stream = Detokenizer(tokenizer, [])
    smile = "🙂".encode()

    assert [stream.push(byte) for byte in smile] == ["", "", "", "🙂"]
    assert [stream.push(byte) for byte in smile[:3]] == ["", "", ""]
    assert stream.push(ord("x")).strip(REPLACEMENT) == "x"
