"""Penalties, bias and masks through the whole engine: forks, preemption, chunks, steps in flight, another engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from quire_engine.attention.triton import TritonAttention
from quire_engine.kv.attach import arena_of
from quire_engine.model.graphs import DecodeGraphs
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_proto.client.client import KVClient
from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import pack_u32
from tests.engine.sampling.plain import Case, plainly
from tests.engine.scheduling.slow_device import WorkerQueue, running_at_depth
from tests.support.engine_loop import VOCAB, Bench, running_engine, words
from tests.support.reference import MARGIN

pytestmark = pytest.mark.process
LATE_S = 0.002
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.3, "frequency_penalty": 2.0, "presence_penalty": -2.0}
BIAS: dict[str, Any] = {"bias_token_ids": pack_u32(range(20, 90, 3)), "bias": tuple(0.5 * i - 4 for i in range(24))}
ALLOWED: dict[str, Any] = {"allowed_token_ids": pack_u32(range(10, 200))}


@pytest.fixture(scope="module", params=[1, 2], ids=["one step at a time", "two in flight"])
def bench(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """An engine that sees each token before the next step, or one whose device is ahead of it."""
    with running_at_depth(request.param, tmp_path_factory.mktemp("engine"), LATE_S) as (started, watch):
        yield started
    assert request.param == 1 or watch.most == 2


@dataclass
class Answers:
    """What a plain loop around the model answers."""

    model: Any
    nearest: float = float("inf")

    @torch.inference_mode()
    def of(self, prompt: list[int], tokens: int, how: dict[str, Any], answer: tuple[int, ...] = ()) -> list[int]:
        """``tokens`` greedy tokens after ``answer``."""
        out = list(answer)
        while len(out) < len(answer) + tokens:
            logits = self.model(torch.tensor([prompt + out])).logits[0, -1]
            best = plainly(logits, Case(Sampling(1, **how), prompt, out)).topk(2)
            self.nearest = min(self.nearest, float(best.values[0] - best.values[1]))
            out.append(int(best.indices[0]))
        return out[len(answer) :]


def answers(bench: Bench) -> Answers:
    return Answers(bench.reference.model)


def follows(prompt: list[int], answer: list[int]) -> dict[str, Any]:
    """Bad words that the answer would have contained: one token, two, and three; and one that it began with."""
    words = ([answer[2]], answer[3:5], answer[5:8], [prompt[-1], answer[0]])
    return {"bad_words": tuple(pack_u32(word) for word in words)}


def test_greedy_answers_are_those_of_a_plain_loop(bench: Bench) -> None:
    """Each parameter alone and all at once, in one batch, with prompts over chunks and blocks, cold and cached."""
    plain, prompt = answers(bench), words(150)
    bad = follows(prompt, plain.of(prompt, 12, {}))
    asked = [{key: value} for key, value in PENALTIES.items()]
    asked += [PENALTIES, BIAS, ALLOWED, bad, {}, PENALTIES | BIAS | ALLOWED | bad]
    for turn in ("cold", "cached"):
        for i, how in enumerate(asked):
            bench.ask(f"{turn}-{i}", prompt, max_tokens=24, **how)
        for i, how in enumerate(asked):
            bench.end(f"{turn}-{i}")
            assert bench.front.tokens[f"{turn}-{i}", 0] == plain.of(prompt, 24, how)
    assert plain.nearest > MARGIN
    given = {i: bench.front.tokens[f"cold-{i}", 0] for i in range(len(asked))}
    assert [i for i, how in enumerate(asked) if how and given[i] == plain.of(prompt, 24, {})] == []
    bench.empty()


def test_preempted_and_recomputed_they_go_on_as_before(bench: Bench) -> None:
    """Eight sequences that need twice the pool: what was counted is counted again from the tokens."""
    plain = answers(bench)
    prompts = {f"small-{i}": words(50 + 5 * i, 7 * i) for i in range(8)}
    hows = [PENALTIES | (BIAS if i % 2 else {}) for i in range(8)]
    before = bench.engine.load().counters["preemptions"]
    for (name, prompt), how in zip(prompts.items(), hows, strict=True):
        bench.ask(name, prompt, max_tokens=70, **how)
    for (name, prompt), how in zip(prompts.items(), hows, strict=True):
        bench.end(name)
        assert bench.front.tokens[name, 0] == plain.of(prompt, 70, how)
    assert bench.engine.load().counters["preemptions"] > before
    assert plain.nearest > MARGIN
    bench.empty()


def test_each_continuation_counts_its_own_tokens(bench: Bench) -> None:
    """Greedy branches of one prompt all answer as one would; drawn ones as they would from a second engine, which is
    given the first half."""
    plain, prompt = answers(bench), words(40, 9)
    bench.ask("fork", prompt, n=3, max_tokens=20, **PENALTIES)
    bench.ask("drawn", prompt, n=3, max_tokens=20, temperature=1.0, seed=5, **PENALTIES)
    for index in range(3):
        bench.end("fork", index)
        assert bench.front.tokens["fork", index] == plain.of(prompt, 20, PENALTIES)
        bench.end("drawn", index)
    first = bench.front.tokens["drawn", 0]
    assert len({tuple(bench.front.tokens["drawn", index]) for index in range(3)}) == 3
    bench.ask("again", prompt, max_tokens=20, temperature=1.0, seed=5, emitted=first[:10], **PENALTIES)
    bench.end("again")
    assert bench.front.tokens["again", 0] == first[10:]
    assert plain.nearest > MARGIN
    bench.empty()


def test_replayed_steps_choose_from_adjusted_logits(tmp_path: Path) -> None:
    """Decode graphs, whose logits lie in a buffer that the next step fills again, with two steps in flight."""
    made: list[DecodeGraphs] = []

    def make(model: Model, client: KVClient) -> Runner:
        backend = TritonAttention(arena_of(client), model.heads)
        made.append(DecodeGraphs(model, backend, 8, lambda launch: launch))
        runner = Runner(model, backend, WorkerQueue(LATE_S), made[0])
        made[0].make()
        return runner

    with running_engine(tmp_path, make, hidden=32, heads=2, kv_heads=1) as bench:
        plain, how = answers(bench), PENALTIES | BIAS | ALLOWED
        asked: dict[str, tuple[list[int], int, dict[str, Any]]] = {
            "all": (words(35), 1, how),
            "none": (words(35), 1, {}),
            "fork": (words(20, 5), 2, PENALTIES),
        }
        for name, (prompt, n, parameters) in asked.items():
            bench.ask(name, prompt, n=n, **parameters)
        for name, (prompt, n, parameters) in asked.items():
            for index in range(n):
                bench.end(name, index)
                assert bench.front.tokens[name, index] == plain.of(prompt, 8, parameters)
        assert made[0].replays >= 7
        assert plain.nearest > MARGIN


@pytest.mark.parametrize(
    "how",
    [
        {"bias_token_ids": pack_u32([VOCAB]), "bias": (1.0,)},
        {"bias": (1.0,)},
        {"allowed_token_ids": pack_u32([3, VOCAB])},
        {"bad_words": (pack_u32([3, VOCAB]),)},
    ],
)
def test_tokens_that_the_model_does_not_have_are_refused(bench: Bench, how: dict[str, Any]) -> None:
    """They would be places outside the logits."""
    name = f"refused-{sorted(how)}"
    bench.ask(name, words(4), **how)
    assert bench.end(name).code == "invalid"
    bench.front.ends.clear()
