"""Names of tokens in log-probabilities: no two alternatives become one."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models

from quire_engine.checkpoint.token_bytes import TokenBytes, byte_alphabet
from quire_proto.gateway_link import TokenLogprob
from quire_proto.wire.u32 import pack_u32
from quire_services.gateway.openai.logprob_shapes import chat_logprobs, completion_logprobs

CHAR = {byte: char for char, byte in byte_alphabet().items()}


def byte_level(*more: str) -> TokenBytes:
    """Every byte is a token; an id is its byte."""
    words = [CHAR[byte] for byte in range(256)] + list(more)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="!"))
    tokenizer.decoder = decoders.ByteLevel()
    return TokenBytes(tokenizer)


def fallback() -> TokenBytes:
    """Bytes as ``<0xE2>`` with id = byte, and the letter A once more, as 256."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["A"]
    tokenizer = Tokenizer(models.WordLevel({piece: place for place, piece in enumerate(pieces)}, unk_token="A"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return TokenBytes(tokenizer)


def entry(logprob: float, *alternatives: int) -> TokenLogprob:
    """A token's log-probability and its alternatives'."""
    return TokenLogprob(logprob, pack_u32(alternatives), tuple(-0.5 - place for place in range(len(alternatives))))


@pytest.mark.source("sgl-project/sglang#32290", "vllm-project/vllm#44319", "ollama/ollama#13497")
def test_pieces_of_characters_have_keys_of_their_own() -> None:
    """Each is written as its bytes, as OpenAI does; chat has the bytes beside the text."""
    pieces = (0xE2, 0xE3, 0xE4, 0x80, 0x81)
    found = completion_logprobs([0xE2], [entry(-0.5, *pieces)], byte_level(), 5, 0)
    assert list(found["top_logprobs"][0]) == [rf"bytes:\\x{piece:02x}".replace("\\\\", "\\") for piece in pieces]
    assert found["tokens"] == ["bytes:\\xe2"]
    assert found["top_logprobs"][0]["bytes:\\xe2"] == found["token_logprobs"][0] == -0.5

    chat = chat_logprobs([0xE2], [entry(-0.5, *pieces)], byte_level(), 5)["content"][0]
    assert chat["bytes"] == [0xE2]
    assert [top["bytes"] for top in chat["top_logprobs"]] == [[piece] for piece in pieces]


@pytest.mark.source("found in our own trials")
def test_tokens_of_one_text_have_keys_of_their_own() -> None:
    """A byte that is a letter, and the letter: the token that was chosen has the text."""
    found = completion_logprobs([256], [entry(-1.5, 0x41, 256)], fallback(), 2, 0)
    assert found["top_logprobs"] == [{"token_id:65": -0.5, "A": -1.5}]
    assert found["tokens"] == ["A"]
    assert completion_logprobs([7], [entry(-2.5, 0x41, 256)], fallback(), 2, 0)["top_logprobs"] == [
        {"A": -0.5, "token_id:256": -1.5, "\x07": -2.5}
    ]


@pytest.mark.source("found in our own trials")
def test_offsets_count_characters_of_the_text() -> None:
    """A character of three tokens is one character, where it begins."""
    tokens = [*"é€".encode(), ord("a")]
    found = completion_logprobs(tokens, [entry(-0.5)] * len(tokens), byte_level(), 0, 10)
    assert found["text_offset"] == [10, 11, 11, 12, 12, 12]


@pytest.mark.source("found in our own trials")
def test_tokens_called_by_their_ids() -> None:
    """All of them, on demand, in both shapes; chat keeps the bytes."""
    found = completion_logprobs([0xE2], [entry(-0.5, 0xE2, 0x41)], byte_level(), 2, 0, as_ids=True)
    assert found["tokens"] == ["token_id:226"]
    assert found["top_logprobs"] == [{"token_id:226": -0.5, "token_id:65": -1.5}]
    chat = chat_logprobs([0x41], [entry(-0.5, 0x41, 0xE2)], byte_level(), 2, as_ids=True)["content"][0]
    assert (chat["token"], chat["bytes"]) == ("token_id:65", [0x41])
    assert [top["token"] for top in chat["top_logprobs"]] == ["token_id:65", "token_id:226"]
