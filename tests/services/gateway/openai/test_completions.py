"""Plain completions: the four forms of a prompt, echo, and the older shape of log-probabilities."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from quire_proto.wire.u32 import unpack_u32
from tests.support.peer_engine import PeerEngine

FOX = "the quick brown fox"
DOG = "pack my lazy dog"


@pytest.mark.parametrize("form", ["string", "strings", "tokens", "lists"])
def test_a_prompt_has_four_forms(client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer, form: str) -> None:
    """A string, a list of strings, token ids and a list of token ids become the same tokens, one generate each."""
    fox, dog = tokenizer.encode(FOX).ids, tokenizer.encode(DOG).ids
    prompt: Any = {"string": FOX, "strings": [FOX, DOG], "tokens": fox, "lists": [fox, dog]}[form]
    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=len(fox), temperature=0)

    expected = [fox, dog] if form in ("strings", "lists") else [fox]
    assert [list(unpack_u32(request.tokens)) for request in engine.requests] == expected
    assert answer.object == "text_completion"
    assert answer.choices[0].text == FOX
    assert answer.usage.prompt_tokens == sum(map(len, expected))
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_choices_of_a_batch_are_numbered_prompt_by_prompt(client: openai.OpenAI, engine: PeerEngine) -> None:
    """Choice p * n + i is continuation i of prompt p."""
    prompts = [[10, 11, 12], [20, 21, 22]]
    answer = client.completions.create(
        model="tiny", prompt=prompts, n=2, max_tokens=1, extra_body={"return_token_ids": True}
    )

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.model_extra["token_ids"] for choice in answer.choices] == [[10], [11], [20], [21]]
    assert answer.usage.prompt_tokens == 6


def test_the_default_is_sixteen_tokens_or_what_is_left(client: openai.OpenAI, engine: PeerEngine) -> None:
    """Without max_tokens a completion has 16 tokens, fewer where the model has no room."""
    short = client.completions.create(model="tiny", prompt=[50] * 10)
    full = client.completions.create(model="tiny", prompt=[50] * 509)

    assert short.usage.completion_tokens == 16
    assert full.usage.completion_tokens == 3


def test_echo_puts_the_prompt_first(client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer) -> None:
    """The prompt's text precedes the answer, for text and for token ids, streamed or not."""
    size = len(tokenizer.encode(FOX).ids)
    for prompt in (FOX, tokenizer.encode(FOX).ids):
        answer = client.completions.create(model="tiny", prompt=prompt, echo=True, max_tokens=size)
        assert answer.choices[0].text == FOX + FOX
    stream = client.completions.create(model="tiny", prompt=FOX, echo=True, max_tokens=size, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == FOX + FOX


def test_logprobs_have_the_older_shape(client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer) -> None:
    """Parallel lists; offsets add up to the text; the alternatives hold the chosen token."""
    ids = tokenizer.encode(FOX).ids
    answer = client.completions.create(model="tiny", prompt=ids, max_tokens=len(ids), logprobs=1)

    found = answer.choices[0].logprobs
    assert "".join(found.tokens) == FOX
    assert found.token_logprobs == [-0.5] * len(ids)
    assert all(FOX[at:].startswith(token) for at, token in zip(found.text_offset, found.tokens, strict=True))
    assert [list(top) for top in found.top_logprobs] == [[token] for token in found.tokens]


def test_characters_of_several_tokens_come_out_whole(
    client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer
) -> None:
    """Streamed pieces never hold half a character; an unfinished one at the end becomes a replacement character."""
    text = "naïve 🙂日本語"
    ids = tokenizer.encode(text).ids
    assert len(ids) > len(text)
    stream = client.completions.create(model="tiny", prompt=ids, max_tokens=len(ids), stream=True)
    pieces = [chunk.choices[0].text for chunk in stream]
    cut = client.completions.create(model="tiny", prompt=ids, max_tokens=len(ids) - 1)

    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert cut.choices[0].text == tokenizer.decode(ids[:-1])
    assert cut.choices[0].text.endswith("\ufffd")
