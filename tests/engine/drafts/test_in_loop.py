"""Drafts change how many steps answers take and nothing of the answers, through the loop over a real kvstore."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from quire_engine.drafts.drafts import Drafts
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.grammar import GrammarState
from quire_engine.grammar.mask_rows import MaskRows, words_of
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_proto.client.client import KVClient
from quire_proto.gateway_link import Abort
from quire_proto.wire.u32 import pack_u32
from tests.engine.scheduling.slow_device import Watch, WorkerQueue
from tests.support.engine_loop import VOCAB, Bench, on_cpu, running_engine, words
from tests.support.grammars import EOS, Letters, random_grammar
from tests.support.waits import wait_for

LETTERS = Letters(VOCAB)
Foresee = Callable[[GrammarState, int], tuple[int, ...]]


def nothing(_state: GrammarState, _most: int) -> tuple[int, ...]:
    """No draft at all."""
    return ()


class Guesses:
    """Drafts of any tokens that the grammar allows one after another: mostly wrong, and somewhere in between."""

    def __init__(self) -> None:
        self._chance, self._rows = random.Random(4), MaskRows(VOCAB)

    def __call__(self, state: GrammarState, most: int) -> tuple[int, ...]:
        there, found = state.clone(), list[int]()
        mask = np.zeros((1, words_of(VOCAB)), np.int32)
        while len(found) < min(most, 7):
            self._rows.fill([(there, ())], mask)
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
            token = self._chance.choice(np.flatnonzero(bits).tolist())
            there.accept([token])
            if there.ended or there.error:
                break
            found.append(token)
        return tuple(found)


@pytest.fixture(scope="module", params=["one", "two"])
def stand(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[tuple[Bench, Watch]]:
    compiler, watch = GrammarCompiler(lambda: LETTERS), Watch()

    def two_in_flight(model: Model, client: KVClient) -> Runner:
        return watch.runner(model, client, WorkerQueue(0.002))

    make, client = (on_cpu, KVClient) if request.param == "one" else (two_in_flight, watch.client())
    with running_engine(tmp_path_factory.mktemp("drafts"), make, client, compiler=compiler) as bench:
        yield bench, watch
    compiler.close()


def request(seed: int) -> tuple[list[int], int, dict[str, Any]]:
    """A prompt, how many continuations, and how they are drawn."""
    chance = random.Random(seed)
    literal = "".join(chance.choice("abcdefg:, 019") for _ in range(chance.randint(8, 30)))
    lark = random_grammar(seed).lark.replace("start: ", f'start: "{literal}" ')
    likely = random_grammar(seed - seed % 3).lark.replace("start: ", f'start: "{literal}" ')  # it, or soon another
    how: dict[str, Any] = {"seed": seed, "grammar": lark.encode(), "max_tokens": chance.choice([200, 200, 5, 17, 40])}
    if seed % 2:
        how["likely_grammar"] = likely.encode()
    if chance.random() < 0.7:
        how |= {"temperature": chance.choice([0.7, 1.0, 1.4])}
    if chance.random() < 0.3:
        how |= {"top_p": 0.9, "top_k": 20}
    if chance.random() < 0.3:
        how |= {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": -0.2}
    if chance.random() < 0.3:
        how |= {"bad_words": (pack_u32(LETTERS.encode("ab")), pack_u32(LETTERS.encode("0 1")))}
    if chance.random() < 0.3:
        how |= {"logprobs": 3}
    if chance.random() < 0.3:
        how |= {"ignore_eos": False, "min_tokens": chance.randint(0, 9)}
    if chance.random() < 0.3:
        how |= {"stop_token_ids": pack_u32(LETTERS.encode(chance.choice("019:")))}
    return words(chance.choice([5, 20, 33, 150]), 3 * chance.randint(0, 3)), chance.choice([1, 1, 1, 2, 3]), how


def answers(bench: Bench, kind: str, seeds: range, at_once: int) -> dict[tuple[int, int], Any]:
    """Tokens and ends of requests, ``at_once`` of them together."""
    found = {}
    for first in range(0, len(seeds), at_once):
        for seed in seeds[first : first + at_once]:
            prompt, n, how = request(seed)
            bench.ask(f"{kind}-{seed}", prompt, n=n, **how)
        for seed in seeds[first : first + at_once]:
            for index in range(request(seed)[1]):
                end = bench.end(f"{kind}-{seed}", index)
                found[seed, index] = (bench.front.tokens[f"{kind}-{seed}", index], end.finish, end.code)
    return found


@pytest.mark.process
@pytest.mark.parametrize("foresee", [GrammarState.foreseen, Guesses()], ids=["forced", "guessed"])
def test_answers_are_the_same_with_and_without(
    stand: tuple[Bench, Watch], monkeypatch: pytest.MonkeyPatch, foresee: Foresee, request: pytest.FixtureRequest
) -> None:
    """Greedy, drawn, filtered, penalized; branches, chunks, cached prompts, bounds and stops amid a draft; alone and in
    a batch that is too large for the pool; for drafts that are right and for any."""
    (bench, watch), seeds, name = stand, range(36), request.node.callspec.id
    counters = bench.engine.load
    with monkeypatch.context() as patch:
        patch.setattr(GrammarState, "foreseen", nothing)
        before = counters().counters
        plain = answers(bench, f"plain-{name}", seeds, 12)
        steps = counters().counters["steps"] - before["steps"]
        assert counters().counters["drafted_tokens"] == before["drafted_tokens"]
    monkeypatch.setattr(GrammarState, "foreseen", lambda state, most: foresee(state, most))
    if isinstance(foresee, Guesses):
        monkeypatch.setattr(Drafts, "_note", lambda *_: None)  # go on however wrong they are
    before = counters().counters
    assert answers(bench, f"batch-{name}", seeds, 12) == plain
    after = counters().counters
    if not isinstance(foresee, Guesses):
        assert after["steps"] - before["steps"] < steps
    assert answers(bench, f"alone-{name}", seeds[:12], 1) == {key: plain[key] for key in plain if key[0] < 12}
    drafted = counters().counters["drafted_tokens"] - before["drafted_tokens"]
    forced = counters().counters["forced_tokens"] - before["forced_tokens"]
    assert 0 < forced < drafted
    assert watch.too_early == []
    bench.empty()


@pytest.mark.process
def test_preempted_answers_are_the_same(stand: tuple[Bench, Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight answers that need twice the pool, whose drafts reach over blocks that are not there."""
    bench, watch = stand
    grammar = b'start: /[a-g]/ ("0: 9, 1: 0, " /[a-g]{2}/){7} "!"'
    found: dict[str, dict[int, Any]] = {"plain": {}, "drafted": {}}
    for kind in found:
        with monkeypatch.context() as patch:
            if kind == "plain":
                patch.setattr(GrammarState, "foreseen", nothing)
            before = bench.engine.load().counters
            for i in range(8):
                how = {"temperature": 0.9, "seed": i} if i % 2 else {}
                bench.ask(f"{kind}-{i}", words(50 + 5 * i, 7 * i), grammar=grammar, max_tokens=150, **how)
            for i in range(8):
                assert bench.end(f"{kind}-{i}").finish == "stop"
                found[kind][i] = bench.front.tokens[f"{kind}-{i}", 0]
            assert bench.engine.load().counters["preemptions"] > before["preemptions"]
    assert found["plain"] == found["drafted"]
    assert watch.too_early == []
    bench.empty()


@pytest.mark.process
def test_what_is_cached_is_what_was_accepted(stand: tuple[Bench, Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows an answer whose drafts were wrong, found in the cache, is what follows it without any cache."""
    bench, _ = stand
    guesses = Guesses()
    monkeypatch.setattr(GrammarState, "foreseen", lambda state, most: guesses(state, most))
    monkeypatch.setattr(Drafts, "_note", lambda *_: None)
    for seed in range(6):
        prompt = words(30, 11 * seed)
        bench.ask(f"first-{seed}", prompt, grammar=b"start: /[a-d]{24} [0-9]{24}/", temperature=1.0, max_tokens=60)
        bench.end(f"first-{seed}")
        longer = prompt + bench.front.tokens[f"first-{seed}", 0]
        bench.ask(f"then-{seed}", longer)
        bench.end(f"then-{seed}")
        assert bench.front.firsts[f"then-{seed}", 0].cached_tokens >= len(longer) - 17
        assert bench.front.tokens[f"then-{seed}", 0] == bench.reference.greedy(longer, 8)
    bench.empty()


@pytest.mark.process
def test_log_probabilities_and_ends(stand: tuple[Bench, Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drafted token has the log-probability that it has without a draft; max_tokens cuts a draft off; an abort
    amid drafts gives all blocks back."""
    bench, _ = stand
    seen: dict[str, list[float]] = {"plain": [], "drafted": []}
    for kind in seen:
        with monkeypatch.context() as patch:
            if kind == "plain":
                patch.setattr(GrammarState, "foreseen", nothing)
            send = bench.front.send
            patch.setattr(
                bench.front,
                "send",
                lambda outputs, kind=kind, send=send: (
                    seen[kind].extend(one.logprob for item in outputs.items for one in item.logprobs),
                    send(outputs),
                ),
            )
            bench.ask(f"scored-{kind}", words(20), grammar=b'start: "0: 9, 1: 0, 1: 9" /[a-d]{4}/', logprobs=1)
            assert bench.end(f"scored-{kind}").finish == "length"
    assert len(seen["plain"]) == 8
    assert seen["drafted"] == pytest.approx(seen["plain"], abs=1e-4)
    for i in range(6):
        bench.ask(f"gone-{i}", words(20 + i), grammar=b'start: ("0: 9, 1: 0, " /[a-g]{2}/){200}', max_tokens=2000)
    wait_for(lambda: len(bench.front.tokens.get(("gone-5", 0), ())) > 10, "all write", 20)
    for i in range(6):
        bench.front.inbox.put(Abort(f"gone-{i}"))
    bench.empty()


@pytest.mark.process
def test_a_model_that_writes_otherwise_is_left_alone(
    stand: tuple[Bench, Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts that are wrong from their first token on come ever more rarely."""
    bench, _ = stand
    wrong = LETTERS.encode("e")[0]
    monkeypatch.setattr(GrammarState, "foreseen", lambda _state, most: (wrong,) * min(most, 4))
    before = bench.engine.load().counters["drafted_tokens"]
    bench.ask("other", words(20), grammar=b"start: /[abc]{100}|e{100}/", max_tokens=100, temperature=1.0, seed=3)
    bench.end("other")
    assert EOS not in bench.front.tokens["other", 0][:-1]
    assert 0 < bench.engine.load().counters["drafted_tokens"] - before <= 4 * 6
    bench.empty()
