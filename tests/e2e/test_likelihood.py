"""Likelihood evaluation, as harnesses do it, and what is done to logits, through a whole stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.models.tiny import FIRST_WORD, make_model
from tests.support.reference import Reference
from tests.support.stack import Stack, running_stack

pytestmark = pytest.mark.process
VOCAB = 256


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Reference]]:
    """Two engines, and the model as transformers runs it."""
    tmp = tmp_path_factory.mktemp("likelihood")
    model = make_model(tmp / "model", vocab=VOCAB)
    with running_stack(tmp, model) as started:
        yield started, Reference(model)


def words(n: int, start: int) -> list[int]:
    return [FIRST_WORD + (start + 7 * i) % (VOCAB - FIRST_WORD) for i in range(n)]


@pytest.mark.parametrize("most", [0, 1])
def test_a_batch_of_prompts_is_as_likely_as_in_transformers(stack: tuple[Stack, Reference], most: int) -> None:
    """``echo``, ``logprobs`` and no token, or one, as lm-eval asks: sums to 1e-3, and whether each token was the most
    likely; prompts that share their beginnings, cached or not."""
    service, reference = stack
    prompts: list[list[int]] = [words(300, 3), words(300, 3)[:200] + words(40, 90), words(5, 8)]
    for prompt in prompts:
        service.complete(prompt, max_tokens=1)
    body: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": most, "return_tokens_as_token_ids": True}
    body["prompt_logprobs"] = 2
    answer = service.complete(prompts, **body)  # type: ignore[arg-type]
    assert answer["usage"]["completion_tokens"] == most * len(prompts)
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        found = choice["logprobs"]
        with torch.inference_mode():
            logprobs = torch.log_softmax(reference.model(torch.tensor([prompt])).logits[0].float(), dim=-1)
        expected = [float(logprobs[place, token]) for place, token in enumerate(prompt[1:])]
        assert found["token_logprobs"][0] is None
        assert found["token_logprobs"][1 : len(prompt)] == pytest.approx(expected, abs=1e-4)
        assert sum(found["token_logprobs"][1 : len(prompt)]) == pytest.approx(sum(expected), abs=1e-3)
        best = [max(row, key=row.__getitem__) for row in found["top_logprobs"][1 : len(prompt)]]
        assert best == [f"token_id:{token}" for token in logprobs[:-1].argmax(dim=-1).tolist()]
        assert len(found["tokens"]) == len(prompt) + most
        rows = choice["prompt_logprobs"]
        assert rows[0] is None
        for row, token, own, places in zip(rows[1:], prompt[1:], expected, logprobs, strict=False):
            assert row[str(token)]["logprob"] == pytest.approx(own, abs=1e-4)
            two = {entry["rank"]: int(name) for name, entry in row.items() if entry["rank"] <= 2}
            assert [two[1], two[2]] == places.topk(2).indices.tolist()


def test_bias_and_masks_rule_the_answer(stack: tuple[Stack, Reference]) -> None:
    """Over HTTP, all three at once and each alone."""
    service, prompt = stack[0], words(40, 11)

    def answer(**how: Any) -> list[int]:
        tokens: list[int] = service.complete(prompt, max_tokens=12, ignore_eos=True, **how)["choices"][0]["token_ids"]
        return tokens

    plain = answer()
    assert plain[0] not in answer(logit_bias={str(plain[0]): -100})
    assert answer(logit_bias={"77": 100}) == [77] * 12
    assert set(answer(allowed_token_ids=[20, 21, 22])) <= {20, 21, 22}
    both = answer(logit_bias={"20": 100}, allowed_token_ids=[20, 21, 22], frequency_penalty=2, presence_penalty=2)
    assert both == [20] * 12
    varied = answer(frequency_penalty=2.0, allowed_token_ids=[20, 21, 22])
    assert sorted(varied.count(token) for token in (20, 21, 22))[0] > 0, "each in turn"
