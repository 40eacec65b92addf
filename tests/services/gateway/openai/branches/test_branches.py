"""The best of several continuations, and what an engine is told of a beam search."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from quire_proto.gateway_link import Sampling
from tests.support.peer_engine import PeerEngine

PROMPT = [10, 11, 12, 13]


def test_the_best_are_those_of_the_highest_mean(client: openai.OpenAI, engine: PeerEngine) -> None:
    """Best first, numbered prompt by prompt, whatever they cost together; log-probabilities only if asked for."""
    engine.likely = {10: -3.0, 11: -1.0, 12: -2.0, 13: -0.1, 20: -5.0, 21: -4.0, 22: -0.2, 23: -0.3}
    prompts = [PROMPT, [20, 21, 22, 23]]
    extra = {"return_token_ids": True}
    answer = client.completions.create(
        model="tiny", prompt=prompts, n=2, best_of=4, max_tokens=1, echo=False, extra_body=extra
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.model_extra["token_ids"] for choice in answer.choices] == [[13], [11], [22], [23]]
    assert [choice.model_extra["prompt_token_ids"] for choice in answer.choices] == [prompts[0]] * 2 + [prompts[1]] * 2
    assert {choice.logprobs for choice in answer.choices} == {None}
    assert answer.usage.completion_tokens == 8
    assert [request.n for request in engine.requests] == [4, 4]

    long = client.completions.create(model="tiny", prompt=PROMPT, best_of=4, max_tokens=2, logprobs=0, extra_body=extra)
    assert [choice.model_extra["token_ids"] for choice in long.choices] == [[12, 13]]
    assert long.choices[0].logprobs.token_logprobs == [-2.0, -0.1]


def test_best_of_as_many_as_are_wanted_changes_nothing(client: openai.OpenAI, engine: PeerEngine) -> None:
    """In the order of their seeds, streamed too."""
    for options in ({}, {"best_of": 2}):
        answer = client.completions.create(model="tiny", prompt=PROMPT, n=2, max_tokens=1, **options)
        assert [choice.index for choice in answer.choices] == [0, 1]
    stream = list(client.completions.create(model="tiny", prompt=PROMPT, n=2, best_of=2, max_tokens=1, stream=True))
    assert {choice.index for piece in stream for choice in piece.choices} == {0, 1}
    assert [request.sampling.logprobs for request in engine.requests] == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "n", "told"),
    [
        ({"n": 3}, 3, (3, 1.0, "")),
        ({"n": 3, "length_penalty": 0.5, "early_stopping": True}, 3, (3, 0.5, "at_once")),
        ({"n": 2, "best_of": 5, "early_stopping": "never"}, 2, (5, 1.0, "never")),
        ({"temperature": 0, "top_k": -1, "repetition_penalty": 1.0}, 1, (0, 1.0, "")),
        ({"n": 2, "temperature": 1, "early_stopping": False, "logit_bias": {}}, 2, (2, 1.0, "")),
    ],
)
def test_a_beam_search_is_the_engines(
    client: openai.OpenAI, engine: PeerEngine, options: dict[str, Any], n: int, told: tuple[int, float, str]
) -> None:
    """Beams, penalty and when to stop; one beam is a greedy answer."""
    extra = {"use_beam_search": True, **options}
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=1, extra_body=extra)
    assert len(answer.choices) == n
    how: Sampling = engine.requests[0].sampling
    assert (engine.requests[0].n, how.temperature) == (n, 0.0)
    assert (how.beam_width, how.length_penalty, how.early_stopping) == told
