"""Beam search in the engine answers as transformers' does: alone, in company, preempted, ahead of the host, aborted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from quire_engine.beams.beam import Gang
from quire_proto.gateway_link import Abort
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.engine.scheduling.slow_device import running_at_depth
from tests.support.engine_loop import BLOCKS, Bench, engine_on, kvstore, running_engine, words
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
STOPS = list(range(60, 64))
EARLY = {"": False, "at_once": True, "never": "never"}


@pytest.fixture(scope="module", params=[1, 2], ids=["one step at a time", "two in flight"])
def bench(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """An engine that sees each token before the next step, or one whose device is ahead of it."""
    with running_at_depth(request.param, tmp_path_factory.mktemp("engine"), 0.001) as (started, watch):
        yield started
    assert watch.too_early == []


@torch.inference_mode()
def reference(bench: Bench, prompt: list[int], n: int, how: dict[str, Any]) -> list[tuple[list[int], float]]:
    """What transformers finds: tokens and score, best first."""
    stops = unpack_u32(how.get("stop_token_ids", b"")).tolist()
    ids = torch.tensor([prompt])
    out = bench.reference.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=how["max_tokens"],
        min_new_tokens=how.get("min_tokens") or None,
        num_beams=how["beam_width"],
        num_return_sequences=n,
        do_sample=False,
        length_penalty=how.get("length_penalty", 1.0),
        early_stopping=EARLY[how.get("early_stopping", "")],
        eos_token_id=stops or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = []
    for row, score in zip(out.sequences.tolist(), out.sequences_scores.tolist(), strict=True):
        answer = row[len(prompt) :]
        ends = [place for place, token in enumerate(answer) if token in stops and place >= how.get("min_tokens", 0)]
        found.append((answer[: ends[0] + 1] if ends else answer, score))
    return found


def agrees(bench: Bench, name: str, prompt: list[int], n: int, how: dict[str, Any]) -> None:
    """The answers of a request that was asked are those of transformers, scores to 1e-4."""
    stops = unpack_u32(how.get("stop_token_ids", b"")).tolist()
    for index, (tokens, score) in enumerate(reference(bench, prompt, n, how)):
        end = bench.end(name, index)
        assert bench.front.tokens[name, index] == tokens, (name, index, how)
        assert end.score == pytest.approx(score, rel=1e-6, abs=1e-4)  # a sum in float32, there
        assert end.finish == ("stop" if tokens[-1] in stops else "length")


def hows() -> Iterator[dict[str, Any]]:
    """Ways to search: widths, lengths, penalties and ends."""
    for width in range(2, 9):
        for place, early in enumerate(EARLY):
            yield {
                "beam_width": width,
                "max_tokens": 5 + 9 * ((width + place) % 4),
                "length_penalty": (1.0, 0.0, 2.0, -0.5)[(width + 2 * place) % 4],
                "early_stopping": early,
                "stop_token_ids": pack_u32(STOPS[: (width + place) % 5]),
                "min_tokens": 3 * ((width + place) % 2),
            }


def test_answers_and_scores_are_those_of_transformers(bench: Bench) -> None:
    """Widths 2 to 8, prompts shorter and longer than a block or a chunk, answers that end early, late and at once."""
    asked = {f"how-{i}": (words(5 + 13 * (i % 11), 3 * i), how) for i, how in enumerate(hows())}
    for name, (prompt, how) in asked.items():
        bench.ask(name, prompt, n=how["beam_width"], **how)
        agrees(bench, name, prompt, how["beam_width"], how)
    ended = [bench.front.ends[name, index].finish for name, (_, how) in asked.items() for index in range(2)]
    assert set(ended) == {"stop", "length"}
    bench.empty()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_models_agree_too(tmp_path: Path, seed: int) -> None:
    """Other weights, and weights that leave many tokens nearly as likely."""
    with running_engine(tmp_path, seed=seed, std=0.6) as bench:
        for i, how in enumerate(hows()):
            if i % 3 == seed % 3:
                prompt = words(10 + 7 * i, i)
                bench.ask(f"how-{i}", prompt, n=2, **how)
                agrees(bench, f"how-{i}", prompt, 2, how)
        bench.empty()


def test_in_company_and_short_of_memory_the_answers_are_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches and others at once, with more blocks wanted than there are, slots for one search at a time; whole gangs
    give their blocks up, and are forked again."""
    parked = list[int]()
    park = Gang.park
    monkeypatch.setattr(Gang, "park", lambda gang: (park(gang), parked.append(len(gang.parked)))[0])
    how = {"beam_width": 4, "max_tokens": 60}
    prompts = {f"search-{i}": words(90 + 16 * i, 11 * i) for i in range(3)}
    others = {f"other-{i}": words(100 + 9 * i, 5 * i) for i in range(5)}
    for name, prompt in others.items():
        bench.ask(name, prompt, max_tokens=70)
    for name, prompt in prompts.items():
        bench.ask(name, prompt, n=3, **how)
    for name, prompt in prompts.items():
        agrees(bench, name, prompt, 3, how)
    for name, prompt in others.items():
        bench.end(name)
        assert bench.front.tokens[name, 0] == bench.reference.greedy(prompt, 70, 0.0)
    assert 4 in parked
    bench.empty()


def test_one_that_needs_more_than_the_pool_is_told_so(bench: Bench) -> None:
    """Its beams share less than the pool could hold of them; what it had comes back."""
    bench.ask("wide", words(16 * (BLOCKS - 12)), n=8, beam_width=8, max_tokens=150)
    assert [bench.end("wide", index).code for index in range(8)] == ["no_room"] * 8
    bench.empty()


def test_an_aborted_search_gives_everything_back(bench: Bench) -> None:
    """In the middle of it, beams forked; one answer less changes nothing."""
    bench.ask("gone", words(40), n=4, beam_width=4, max_tokens=400)
    wait_for(lambda: bench.engine.load().running == 4, "the beams run")
    bench.front.inbox.put(Abort("gone", 1, every=False))
    bench.front.inbox.put(Abort("gone"))
    bench.empty()
    how = {"beam_width": 4, "max_tokens": 12}
    prompt = words(40, 5)
    bench.ask("less", prompt, n=4, **how)
    bench.front.inbox.put(Abort("less", 1, every=False))
    for index in (0, 2, 3):
        assert bench.end("less", index).finish == "length"
    assert [bench.front.tokens["less", i] for i in (0, 2)] == [reference(bench, prompt, 4, how)[i][0] for i in (0, 2)]
    assert ("less", 1) not in bench.front.ends


def test_log_probabilities_are_those_of_the_beam(bench: Bench) -> None:
    """Their sum over the length is the score, and the alternatives are as many as were asked for."""
    how = {"beam_width": 3, "max_tokens": 10, "logprobs": 13}
    bench.ask("told", words(20), n=3, **how)
    for index in range(3):
        end = bench.end("told", index)
        assert len(end.logprobs) == 10
        assert sum(one.logprob for one in end.logprobs) / 10 == pytest.approx(end.score, abs=1e-5)
        assert {(len(one.top_ids) // 4, len(one.top_logprobs)) for one in end.logprobs} == {(12, 12)}
    agrees(bench, "told", words(20), 3, how)


@pytest.mark.parametrize(
    ("n", "how"),
    [
        (1, {"beam_width": 9}),
        (3, {"beam_width": 2}),
        (1, {"beam_width": 2, "early_stopping": "yes"}),
        (1, {"beam_width": 2, "length_penalty": 11.0}),
        (1, {"beam_width": 2, "presence_penalty": 1.0}),
        (1, {"beam_width": 2, "prompt_logprobs": 1}),
        (1, {"beam_width": -1}),
    ],
)
def test_what_cannot_be_searched_is_refused(bench: Bench, n: int, how: dict[str, Any]) -> None:
    """More beams than slots, more answers than beams, and what is done to logits."""
    name = f"refused-{n}-{sorted(how.items())}"
    bench.ask(name, words(4), n=n, **how)
    assert bench.end(name).code == "invalid"


def test_an_engine_that_stops_ends_each_answer_once(tmp_path: Path) -> None:
    """Beams beyond the answers have no end of their own."""
    with kvstore(tmp_path) as (run_dir, model_dir):
        with engine_on(run_dir, model_dir) as (engine, front):
            front.ask("cut", words(40), n=2, beam_width=4, max_tokens=400)
            wait_for(lambda: engine.load().running == 4, "the beams run")
        assert {key: end.finish for key, end in front.ends.items()} == {("cut", 0): "abort", ("cut", 1): "abort"}


def test_a_cached_prompt_is_not_computed_again_for_beams(bench: Bench) -> None:
    """What is cached of a prompt is found, and the answers are the same from it."""
    prompt, how = words(16 * 5 + 3, 77), {"beam_width": 3, "max_tokens": 20}
    for name, cached in (("cold", 0), ("warm", 80)):
        bench.ask(name, prompt, n=3, **how)
        agrees(bench, name, prompt, 3, how)
        assert bench.end(name).cached_tokens == cached
    bench.empty()
