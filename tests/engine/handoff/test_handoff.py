"""Sequences that go from engine to engine: what comes is what would have come, and nothing is computed twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.handoff import offers
from quire_engine.kv.attach import arena_of
from quire_engine.kv.kv_session import KvSession
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_engine.scheduling.intake import Intake
from quire_engine.scheduling.outbox import RECOMPUTED
from quire_engine.sequences.sequence import Sequence
from quire_proto.client.client import KVClient, KVReader
from quire_proto.gateway_link import HANDOFF, Abort, Continuation, Drain, Handoff
from quire_proto.wire.u32 import pack_u32
from tests.engine.handoff.movers import Movers, movers
from tests.engine.scheduling.slow_device import WorkerQueue
from tests.engine.test_resume import sampling
from tests.support.engine_loop import VOCAB, on_cpu, words
from tests.support.grammars import Letters, random_grammar
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
CLOSE = 1e-3  # of log-probabilities: a batch of another size adds up in another order
NAMES = count(1)
AGAIN = RECOMPUTED[HANDOFF]


def two_in_flight(model: Model, client: KVClient) -> Runner:
    return Runner(model, CpuAttention(arena_of(client)), WorkerQueue(0.002))


STARTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "one": (on_cpu, {}),
    "two": (two_in_flight, {}),
    "window": (on_cpu, {"family": "mistral", "window": 24}),
}


DEEP = pytest.mark.parametrize("pair", ["two"], indirect=True)


@pytest.fixture(scope="module", params=STARTS)
def pair(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Movers]:
    make, options = STARTS[request.param]
    compiler = GrammarCompiler(lambda: Letters(VOCAB))
    with movers(tmp_path_factory.mktemp("handoff"), make, compiler, **options) as it:
        yield it
    compiler.close()


def same(pair: Movers, prompt: list[int], every: int, n: int = 1, **how: Any) -> int:
    """Ask twice, once with moves after every so many tokens; how often it moved."""
    name, before = f"r{next(NAMES)}", pair.count(AGAIN)
    pair.every = 0
    pair.ask(name, prompt, n, salt=name, **how)
    whole = pair.result(name)
    pair.every = every
    pair.ask(name + "m", prompt, n, salt=name + "m", **how)
    moved = pair.result(name + "m")
    assert [(one.tokens, one.finish, one.code) for one in moved] == [(w.tokens, w.finish, w.code) for w in whole]
    for one, other in zip(moved, whole, strict=True):
        for a, b in zip(one.logprobs, other.logprobs, strict=True):
            assert abs(a.logprob - b.logprob) < CLOSE
            assert len(a.top_ids) == len(b.top_ids)
    assert pair.count(AGAIN) == before, "computed twice"
    return sum(one.moves for one in moved)


@given(
    length=st.integers(1, 90),
    start=st.integers(0, 200),
    n=st.integers(1, 4),
    every=st.integers(1, 6),
    how=sampling(),
)
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_moves_is_what_would_come(
    pair: Movers, length: int, start: int, n: int, every: int, how: dict[str, Any]
) -> None:
    """However tokens are chosen and however often it moves, each of n branches by itself; nothing is computed twice."""
    same(pair, words(length, start), every, n, **{**how, "prompt_logprobs": 0})
    pair.empty()


@pytest.mark.parametrize("seed", range(2))
def test_a_grammar_moves(pair: Movers, seed: int) -> None:
    """With the tokens that led to its place in it, drafted ones too."""
    grammar = random_grammar(40 + seed).lark.encode()
    same(pair, words(20, seed), 2, 1 + seed % 2, grammar=grammar, max_tokens=60, temperature=0.8, seed=seed)
    pair.empty()


# --- whatever it is when it is asked for -----------------------------------------------------------------------------


def begun(pair: Movers, name: str, index: int = 0) -> None:
    wait_for(lambda: pair.told(name, index).tokens, f"{name} has begun", 30)


@DEEP
@pytest.mark.parametrize("n", [1, 3])
def test_a_prompt_moves_with_what_is_computed_of_it(pair: Movers, n: int) -> None:
    """Once for all its continuations; the prompt is gone on with, and told as cached is what was cached where it
    began."""
    pair.every, name, prompt = 0, f"r{next(NAMES)}", words(900, n)
    pair.ask(name, prompt, n, salt=name, max_tokens=6)
    whole, before = pair.result(name), pair.count(AGAIN)
    pair.ask(name + "m", prompt, n, salt=name + "m", max_tokens=6)
    wait_for(lambda: pair.engines[0].load().running, "it has begun", 30)
    pair.move(0, *((name + "m", index) for index in range(n)))
    assert [one.tokens for one in pair.result(name + "m")] == [one.tokens for one in whole]
    assert all(one.moves and 0 < one.computed < 900 for one in pair.result(name + "m"))
    assert pair.count(AGAIN) == before
    pair.empty()


@DEEP
def test_more_than_there_are_slots(pair: Movers) -> None:
    """What runs moves with its blocks, what waits without; the other engine takes them as it has slots."""
    pair.every, names = 0, [f"r{next(NAMES)}" for _ in range(14)]
    for number, name in enumerate(names):
        pair.ask(name, words(20, number), place=number % 2, max_tokens=90)
    begun(pair, names[0])
    before = pair.count(AGAIN)
    pair.move(0, *((name, 0) for name in names[::2]))
    assert [len(pair.result(name)[0].tokens) for name in names] == [90] * 14
    assert pair.count(AGAIN) == before
    pair.empty()


@DEEP
def test_an_offer_that_is_gone(pair: Movers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other engine computes again what is not cached, and the blocks that nobody took come back."""
    monkeypatch.setattr(offers, "EXPIRES_S", 0.3)
    pair.every, name = 0, f"r{next(NAMES)}"
    pair.ask(name, words(30), salt=name, max_tokens=80)
    whole, before = pair.result(name), pair.count(AGAIN)
    pair.change = lambda message: replace(message, offer=bytes(16))
    pair.ask(name + "m", words(30), salt=name + "m", max_tokens=80)
    begun(pair, name + "m")
    pair.move(0, (name + "m", 0))
    assert pair.result(name + "m")[0].tokens == whole[0].tokens
    assert before <= pair.count(AGAIN) < before + 16, "the unsealed tail"
    pair.change = None
    pair.empty()


@DEEP
def test_a_session_that_is_not_there(pair: Movers) -> None:
    """What nobody can adopt goes on where it is."""
    pair.every, name = 0, f"r{next(NAMES)}"
    pair.ask(name, words(30), max_tokens=60)
    begun(pair, name)
    pair.sides[0].inbox.put(Handoff(bytes(16), (Continuation(name, 0), Continuation("unknown", 3))))
    assert (len(pair.result(name)[0].tokens), pair.result(name)[0].moves) == (60, 0)
    pair.empty()


@DEEP
def test_a_client_that_leaves_on_the_way(pair: Movers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is adopted, or when it has been: nothing of it is left."""
    monkeypatch.setattr(offers, "EXPIRES_S", 0.3)
    pair.every = 0
    for place in (0, 1):
        name = f"r{next(NAMES)}"
        pair.ask(name, words(30), max_tokens=400)
        begun(pair, name)
        pair.change = lambda _message: None
        pair.move(0, (name, 0))
        wait_for(lambda name=name: pair.told(name, 0).moves, "it is given back", 30)
        pair.change = None
        if place:
            pair.sides[1].inbox.put(pair.last)
        pair.sides[place].inbox.put(Abort(name))
        pair.empty()


@DEEP
def test_a_beam_search_begins_again(pair: Movers) -> None:
    """Its state is in the engine that it leaves, and nothing of it was sent."""
    pair.every, name = 0, f"r{next(NAMES)}"
    how = {"beam_width": 3, "max_tokens": 60}
    pair.ask(name, words(30), 2, **how)
    whole = pair.result(name)
    pair.ask(name + "m", words(30), 2, **how)
    wait_for(lambda: pair.engines[0].load().running == 3, "it has begun", 30)
    pair.move(0, (name + "m", 0), (name + "m", 1))
    assert [(one.tokens, one.moves) for one in pair.result(name + "m")] == [(one.tokens, 1) for one in whole]
    pair.empty()


@DEEP
def test_a_prompt_that_was_scored_is_not_offered(pair: Movers) -> None:
    """Its digests are under a salt of their own: it goes on elsewhere without its blocks, with the same tokens."""
    pair.every, name = 0, f"r{next(NAMES)}"
    pair.ask(name, words(40), salt=name, max_tokens=60)
    whole, offered = pair.result(name), pair.count("offered")
    pair.ask(name + "m", words(40), salt=name, max_tokens=60, prompt_logprobs=1)
    begun(pair, name + "m")
    pair.move(0, (name + "m", 0))
    (moved,) = pair.result(name + "m")
    assert (moved.tokens, moved.moves, pair.count("offered")) == (whole[0].tokens, 1, offered)
    pair.empty()


@DEEP
def test_an_engine_that_is_drained_computes_no_publication(pair: Movers) -> None:
    """It leaves that to others until it is as before."""
    with KVReader(pair.run_dir) as reader:
        for side in pair.sides:
            side.inbox.put(Drain())
        wait_for(lambda: all(engine._draining for engine in pair.engines), "both are drained", 10)
        reader.publish("drained", "public", pack_u32(words(40)))
        time.sleep(0.5)
        (found,) = reader.fetch_publications().publications
        assert found.state == "pending"
        pair.sides[1].inbox.put(Drain(on=False))
        wait_for(lambda: reader.fetch_publications().publications[0].state == "ready", "it is computed", 30)
        reader.unpublish("drained")
    pair.sides[0].inbox.put(Drain(on=False))
    pair.empty()


# --- planted faults --------------------------------------------------------------------------------------------------


def _marks_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KvSession, "quiesce", lambda *_: None)


def _offers_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "EXPIRES_S", 0.3)
    monkeypatch.setattr(
        Intake, "accept", lambda self, message, kv, take=Intake.accept: take(self, replace(message, offer=b""), kv)
    )


def _a_token_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = KvSession._apply_adopted

    def further(self: KvSession, sequence: Sequence, adopted: Any) -> bool:
        done = apply(self, sequence, adopted)
        sequence.computed = max(1, sequence.computed - 1) if done else 0
        return done

    monkeypatch.setattr(KvSession, "_apply_adopted", further)


@DEEP
@pytest.mark.parametrize("fault", [_marks_left_behind, _offers_lost, _a_token_too_far])
def test_each_fault_is_seen(pair: Movers, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fill mark that is not said, an offer that is not passed on, a token that is computed again."""
    assert same(pair, words(40), 3, max_tokens=20) > 1
    fault(monkeypatch)
    with pytest.raises(AssertionError, match="computed twice"):
        same(pair, words(40), 3, max_tokens=20)
    monkeypatch.undo()
    pair.empty()
