"""Parallel sampling holds the prompt once and copies a shared tail before writing to it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from bench.models.tiny import FIRST_WORD, make_model
from tests.support.reference import Reference
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("fork") / "model", vocab=256)


@pytest.fixture(scope="module")
def stack(model: Path) -> Stack:  # type: ignore[misc]
    with running_stack(model.parent, model, engines=1) as started:
        yield started


@pytest.mark.process
def test_four_samples_hold_the_prompt_once(stack: Stack) -> None:
    """n=4 over a prompt of 330 tokens (20.6 blocks) holds its full blocks once and one tail a sample."""
    prompt = [FIRST_WORD + i % 200 for i in range(330)]
    before = stack.stats()
    held: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            stats = stack.stats()
            if stats.counters["forks"] > before.counters["forks"]:
                held.append(stats.blocks["held"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    answer = stack.complete(prompt, max_tokens=100, n=4, temperature=1.0, seed=11, ignore_eos=True)
    done.set()
    watcher.join()
    assert len(answer["choices"]) == 4
    assert len({tuple(c["token_ids"]) for c in answer["choices"]}) == 4
    # 20 shared blocks and, for each of four samples, a tail and what 100 tokens need: 7 blocks.
    assert 20 < max(held) <= 20 + 4 * 7
    after = stack.stats()
    assert after.counters["copies"] - before.counters["copies"] == 3
    wait_for(lambda: stack.stats().blocks["held"] == 0, "all blocks came back", 5)


@pytest.mark.process
def test_samples_depend_on_their_seed_only(stack: Stack) -> None:
    """The same seed gives the same four samples, and the first of them equals the one of n=1."""
    prompt = [FIRST_WORD + i for i in range(37)]
    options = {"max_tokens": 20, "temperature": 1.0, "seed": 5, "ignore_eos": True}
    first = [c["token_ids"] for c in stack.complete(prompt, n=4, **options)["choices"]]
    again = [c["token_ids"] for c in stack.complete(prompt, n=4, **options)["choices"]]
    alone = stack.complete(prompt, **options)["choices"][0]["token_ids"]
    other = stack.complete(prompt, **{**options, "seed": 6})["choices"][0]["token_ids"]
    assert first == again
    assert first[0] == alone
    assert other != alone


@pytest.mark.process
def test_samples_that_end_at_once_leave_nothing(stack: Stack) -> None:
    """n=3 with max_tokens=1 answers three tokens, forks nothing and holds nothing afterwards."""
    answer = stack.complete([FIRST_WORD + 3] * 20, max_tokens=1, n=3, temperature=1.0, seed=1)
    assert [len(c["token_ids"]) for c in answer["choices"]] == [1, 1, 1]
    wait_for(lambda: stack.stats().blocks["held"] == 0, "all blocks came back", 5)


@pytest.mark.process
def test_beams_are_those_of_transformers(stack: Stack, model: Path) -> None:
    """``use_beam_search`` answers with the sequences of ``generate(num_beams=5)``, and with the best two of them."""
    prompt = [FIRST_WORD + 7 * i % 200 for i in range(70)]
    ids = torch.tensor([prompt])
    found = Reference(model).model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=30,
        num_beams=5,
        num_return_sequences=5,
        do_sample=False,
        length_penalty=0.7,
        eos_token_id=None,
        pad_token_id=0,
    )
    expected = found[:, len(prompt) :].tolist()
    options = {"max_tokens": 30, "use_beam_search": True, "length_penalty": 0.7, "ignore_eos": True}
    for n in (5, 2):
        answer = stack.complete(prompt, n=n, best_of=5, **options)
        assert [choice["token_ids"] for choice in answer["choices"]] == expected[:n]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 64
    wait_for(lambda: stack.stats().blocks["held"] == 0, "all blocks came back", 5)
