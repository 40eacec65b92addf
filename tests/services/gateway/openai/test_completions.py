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


@pytest.mark.parametrize("most", [0, 1, 4])
@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs_tells_those_of_the_prompt(
    client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer, stream: bool, most: int
) -> None:
    """One row of each list for each token of prompt and answer, for every prompt and continuation; the first token's
    are null. With ``max_tokens`` 0 the answer has no token, and nothing else ends it but its length."""
    prompts = [tokenizer.encode(text).ids for text in (FOX, DOG)]
    ask: Any = {"model": "tiny", "prompt": prompts, "n": 2, "echo": True, "logprobs": 1, "max_tokens": most}
    rows: dict[int, dict[str, list[Any]]] = {}
    texts: dict[int, str] = {}
    reasons: dict[int, str | None] = {}
    answers = list(client.completions.create(**ask, stream=True)) if stream else [client.completions.create(**ask)]
    for choice in (choice for answer in answers for choice in answer.choices):
        texts[choice.index] = texts.get(choice.index, "") + choice.text
        reasons[choice.index] = choice.finish_reason
        for name, values in choice.logprobs.model_dump().items():
            rows.setdefault(choice.index, {}).setdefault(name, []).extend(values)
    assert reasons == dict.fromkeys(range(4), "length")
    for index in range(4):
        prompt, found = prompts[index // 2], rows[index]
        answer = [prompt[(k + index % 2) % len(prompt)] for k in range(most)]
        spelled = [tokenizer.decode([token]) for token in prompt + answer]
        assert found["tokens"] == spelled
        assert texts[index] == "".join(spelled)
        assert found["token_logprobs"] == [None, *(-k for k in range(1, len(prompt))), *([-0.5] * most)]
        assert found["text_offset"] == [len("".join(spelled[:k])) for k in range(len(spelled))]
        assert found["top_logprobs"][0] is None
        assert found["top_logprobs"][1] == {spelled[1]: -1, spelled[0]: -0.25}
    assert [request.sampling.prompt_logprobs for request in engine.requests] == [2, 2]
    if not stream:
        assert answers[0].usage.completion_tokens == 4 * most


def test_without_echo_or_logprobs_prompts_are_not_scored(client: openai.OpenAI, engine: PeerEngine) -> None:
    """That would compute what is cached."""
    for how in ({"echo": True}, {"logprobs": 2}):
        client.completions.create(model="tiny", prompt=FOX, max_tokens=1, **how)  # type: ignore[call-overload]
    assert [request.sampling.prompt_logprobs for request in engine.requests] == [0, 0]


def test_prompt_logprobs_come_with_each_choice(client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer) -> None:
    """vLLM's field, of the choice's own prompt: by token id, with rank and text; null for the first token. With and
    without ``echo``, which keeps its own number of alternatives."""
    prompts = [tokenizer.encode(text).ids for text in (FOX, DOG)]
    more: list[dict[str, Any]] = [{}, {"echo": True, "logprobs": 3}, {"echo": True, "logprobs": 0}]
    for how in more:
        ask: Any = {"model": "tiny", "prompt": prompts, "n": 2, "max_tokens": 0, "extra_body": {"prompt_logprobs": 1}}
        answer = client.completions.create(**ask, **how)
        for choice in answer.choices:
            prompt = prompts[choice.index // 2]
            rows = choice.model_extra["prompt_logprobs"]
            first = {"logprob": -0.25, "rank": 1, "decoded_token": tokenizer.decode([prompt[0]])}
            second = {"logprob": -1, "rank": 2, "decoded_token": tokenizer.decode([prompt[1]])}
            assert rows[0] is None
            assert rows[1] == {str(prompt[1]): second, str(prompt[0]): first}
            assert [row[str(token)]["logprob"] for row, token in zip(rows[1:], prompt[1:], strict=True)][:2] == [-1, -2]
            if how:
                assert len(choice.logprobs.tokens) == len(prompt)
                assert len(choice.logprobs.top_logprobs[1]) == (2 if how["logprobs"] else 1)
        wanted = {request.sampling.prompt_logprobs for request in engine.requests}
        assert wanted == {max(1, how.get("logprobs", 0)) + 1}
        engine.requests.clear()
