"""Chat completions through the official client, not streamed."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from quire_proto.wire.u32 import unpack_u32
from tests.support.peer_engine import PeerEngine

MESSAGES: list[Any] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the quick fox"}]


def test_a_chat_answer_has_text_usage_and_reason(client: openai.OpenAI, engine: PeerEngine) -> None:
    """The answer has the official client's types, and usage says what came from the cache."""
    engine.cached_tokens = 5
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=50)

    (request,) = engine.requests
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.startswith("be briefthe quick foxbe brief")
    assert answer.usage.prompt_tokens == len(request.tokens) // 4
    assert answer.usage.completion_tokens == 50
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 50
    assert answer.usage.prompt_tokens_details.cached_tokens == 5


def test_the_prompt_is_what_the_chat_template_says(
    client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer
) -> None:
    """Roles become the template's tokens; text parts are joined, a developer is a system, no special token is added."""
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages: list[Any] = [{"role": "developer", "content": "rules"}, {"role": "user", "content": parts}]
    client.chat.completions.create(model="tiny", messages=messages, max_tokens=1)

    sent = list(unpack_u32(engine.requests[0].tokens))
    assert tokenizer.decode(sent, skip_special_tokens=False) == "<bos><|system|>rules<|user|>one\ntwo<|assistant|>"
    assert sent[:2] == [0, 2]


def test_parameters_reach_the_engine(client: openai.OpenAI, engine: PeerEngine) -> None:
    """What the client asks for is what the engine is told; a seed is drawn where none is given."""
    extra = {"top_k": 7, "min_p": 0.25, "min_tokens": 2, "ignore_eos": True, "stop_token_ids": [9, 300]}
    client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=3, temperature=0.5, top_p=0.75, seed=-1, extra_body=extra
    )
    client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=3)
    client.chat.completions.create(model="tiny", messages=MESSAGES)

    how, default, unlimited = (request.sampling for request in engine.requests)
    assert (how.temperature, how.top_p, how.top_k, how.min_p) == (0.5, 0.75, 7, 0.25)
    assert (how.max_tokens, how.min_tokens, how.ignore_eos) == (3, 2, True)
    assert list(unpack_u32(how.stop_token_ids)) == [9, 300]
    assert how.seed == 2**63 - 1
    assert (default.temperature, default.top_p, default.top_k, default.min_p, default.logprobs) == (1, 1, 0, 0, 0)
    assert default.seed != unlimited.seed
    assert unlimited.max_tokens == 512 - len(engine.requests[2].tokens) // 4


def test_n_choices_are_numbered_and_the_prompt_counts_once(client: openai.OpenAI, engine: PeerEngine) -> None:
    """One generate message with n; continuation i becomes choice i; usage counts the prompt once."""
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=4, n=3)

    (request,) = engine.requests
    assert request.n == 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage.prompt_tokens == len(request.tokens) // 4
    assert answer.usage.completion_tokens == 12


def test_logprobs_have_the_shape_of_chat(client: openai.OpenAI, engine: PeerEngine) -> None:
    """One entry a token, with its bytes and as many alternatives as were asked for."""
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "é"}], max_tokens=4, logprobs=True, top_logprobs=2
    )

    assert engine.requests[0].sampling.logprobs == 3
    entries = answer.choices[0].logprobs.content
    assert [entry.token for entry in entries] == ["<bos>", "<|user|>", "\ufffd", "\ufffd"]
    assert bytes(entries[2].bytes + entries[3].bytes) == "é".encode()
    assert all(entry.logprob == -0.5 for entry in entries)
    assert [[round(top.logprob, 1) for top in entry.top_logprobs] for entry in entries] == [[-0.5, -1.5]] * 4


def test_a_token_that_ends_the_answer_has_no_text(client: openai.OpenAI, engine: PeerEngine) -> None:
    """A stop token counts as generated and leaves no text, though it is an ordinary word."""
    ended = client.completions.create(
        model="tiny", prompt=[100, 101, 102, 103], max_tokens=8, extra_body={"stop_token_ids": [102]}
    )
    whole = client.completions.create(model="tiny", prompt=[100, 101, 102, 103], max_tokens=2)
    assert ended.choices[0].finish_reason == "stop"
    assert ended.choices[0].text == whole.choices[0].text
    assert ended.usage.completion_tokens == 3


def test_prompt_logprobs_come_with_the_answer(client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer) -> None:
    """vLLM's field, beside the choices, once for all of them; with 0 each token of the prompt alone."""
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, n=2, max_tokens=1, extra_body={"prompt_logprobs": 0}
    )
    prompt = unpack_u32(engine.requests[0].tokens)
    expected = [
        {
            str(token): {
                "logprob": -k,
                "rank": k + 1,
                "decoded_token": tokenizer.decode([token], skip_special_tokens=False),
            }
        }
        for k, token in enumerate(prompt)
    ]
    assert answer.model_extra["prompt_logprobs"] == [None, *expected[1:]]
    assert len(answer.choices) == 2
    plain = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1)
    assert "prompt_logprobs" not in plain.model_extra


PREFILLED: list[Any] = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "Sure, "}]


@pytest.mark.parametrize("long", [False, True])
def test_an_answer_goes_on_with_the_last_message(
    client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer, long: bool
) -> None:
    """``continue_final_message`` and ``add_generation_prompt: false``: the prompt ends there; with ``echo`` the answer
    begins with that message, whole, streamed and for each choice; long bodies, too."""
    first: list[Any] = [{"role": "system", "content": "x" * 20_000 if long else "x"}] if long else []
    opener = {"add_generation_prompt": False, "echo": True, "truncate_prompt_tokens": 40}
    for more in ({"continue_final_message": True}, {"continue_final_message": True, "echo": True}, opener):
        ask: Any = {"model": "tiny", "messages": [*first, *PREFILLED], "max_tokens": 2, "n": 2}
        ask["extra_body"] = {"truncate_prompt_tokens": 40, **more}
        whole = client.chat.completions.create(**ask)
        prompt = list(unpack_u32(engine.requests[-1].tokens))
        assert tokenizer.decode(prompt, skip_special_tokens=False).endswith("<|user|>go<|assistant|>Sure, ")
        streamed = {0: "", 1: ""}
        for chunk in client.chat.completions.create(**ask, stream=True):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        for choice in whole.choices:
            drawn = tokenizer.decode([prompt[(k + choice.index) % len(prompt)] for k in range(2)])
            assert choice.message.content == ("Sure, " if "echo" in more else "") + drawn
            assert streamed[choice.index] == choice.message.content


def test_echo_of_a_chat_without_an_answer_begun_is_nothing(client: openai.OpenAI, engine: PeerEngine) -> None:
    """As in vLLM: only what the assistant said is the answer's."""
    answers = [
        client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=3, extra_body={"echo": echo})
        for echo in (True, False)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
