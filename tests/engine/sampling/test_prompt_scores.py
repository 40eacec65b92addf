"""Log-probabilities of a prompt's tokens are those of transformers, however the prompt comes to be computed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from quire_proto.wire.u32 import unpack_u32
from tests.engine.scheduling.slow_device import running_at_depth
from tests.support.engine_loop import Bench, words

pytestmark = pytest.mark.process
LATE_S = 0.002


@pytest.fixture(scope="module", params=[1, 2], ids=["one step at a time", "two in flight"])
def bench(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """An engine whose steps take 64 tokens at most."""
    with running_at_depth(request.param, tmp_path_factory.mktemp("engine"), LATE_S) as (started, _):
        yield started


@torch.inference_mode()
def check(bench: Bench, name: str, prompt: list[int], top: int) -> None:
    """What the first output said, to 1e-4."""
    found = bench.front.scores[name, 0]
    logprobs = torch.log_softmax(bench.reference.model(torch.tensor([prompt])).logits[0, :-1].float(), dim=-1)
    best = logprobs.topk(max(top, 1))
    assert len(found) == len(prompt) - 1
    for place, entry in enumerate(found):
        assert entry.logprob == pytest.approx(float(logprobs[place, prompt[place + 1]]), abs=1e-4)
        assert list(entry.top_logprobs) == pytest.approx(best.values[place, :top].tolist(), abs=1e-4)
        assert len(unpack_u32(entry.top_ids)) == top
        above, others = (int((logprobs[place] > entry.logprob + off).sum()) for off in (1e-4, -1e-4))
        assert above < entry.rank <= max(1, others), "but for equals"


def test_they_are_those_of_transformers(bench: Bench) -> None:
    """Over chunks, alone and beside others; also where all of the prompt is cached already, and for each of several
    continuations' one prompt; answers stay as they are."""
    prompts = {"long": words(150), "again": words(150), "other": words(70, 9), "short": words(2), "one": words(1)}
    bench.ask("before", words(150))
    bench.end("before")
    for i, (name, prompt) in enumerate(prompts.items()):
        bench.ask(name, prompt, n=1 + i % 3, prompt_logprobs=1 + i)
    bench.ask("plain", words(90, 3))
    for i, (name, prompt) in enumerate(prompts.items()):
        for index in range(1 + i % 3):
            bench.end(name, index)
            assert bench.front.tokens[name, index] == bench.reference.greedy(prompt, 8)
            assert index == 0 or (name, index) not in bench.front.scores
        if len(prompt) > 1:
            check(bench, name, prompt, i)
    bench.end("plain")
    assert bench.front.tokens["plain", 0] == bench.reference.greedy(words(90, 3), 8)
    assert ("plain", 0) not in bench.front.scores
    bench.empty()


def test_a_prompt_is_scored_though_it_is_preempted(bench: Bench) -> None:
    """Eight sequences that need twice the pool; and one that another engine has begun to answer."""
    prompts = {f"small-{i}": words(50 + 5 * i, 7 * i) for i in range(8)}
    for name, prompt in prompts.items():
        bench.ask(name, prompt, max_tokens=70, prompt_logprobs=2)
    for name, prompt in prompts.items():
        bench.end(name)
        check(bench, name, prompt, 1)
    bench.ask("begun", words(40), emitted=bench.reference.greedy(words(40), 4), prompt_logprobs=1)
    bench.end("begun")
    check(bench, "begun", words(40), 0)
    bench.empty()
