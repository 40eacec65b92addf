"""A continuation that another engine has begun, and the whole of it: tokens, log-probabilities and end, to the bit."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.kv.attach import arena_of
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_engine.sequences.sample_row import SampleRow
from quire_engine.sequences.sequence import Request, Sequence
from quire_proto.client.client import KVClient
from quire_proto.gateway_link import Abort
from quire_proto.wire.u32 import pack_u32
from tests.engine.scheduling.slow_device import WorkerQueue
from tests.support.engine_loop import VOCAB, Bench, on_cpu, running_engine, words
from tests.support.grammars import Letters, random_grammar
from tests.support.host_library import need_host_library
from tests.support.waits import wait_for

need_host_library()

pytestmark = pytest.mark.process
NAMES = count(1)


@dataclass(frozen=True)
class Asked:
    """A request."""

    prompt: list[int]
    n: int = 1
    how: dict[str, Any] = field(default_factory=dict)


def two_in_flight(model: Model, client: KVClient) -> Runner:
    return Runner(model, CpuAttention(arena_of(client)), WorkerQueue(0.002))


STARTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "one": (on_cpu, {}),
    "two": (two_in_flight, {}),
    "window": (on_cpu, {"family": "mistral", "window": 24}),
}


@pytest.fixture(scope="module", params=STARTS)
def bench(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Bench]:
    make, options = STARTS[request.param]
    compiler = GrammarCompiler(lambda: Letters(VOCAB))
    with running_engine(tmp_path_factory.mktemp("resume"), make, compiler=compiler, **options) as started:
        yield started
    compiler.close()


def differing(bench: Bench, asked: Asked) -> list[tuple[int, int]]:
    """Continuations and cuts after which what comes is not what came of the whole request."""
    front, name = bench.front, f"whole-{next(NAMES)}"
    bench.ask(name, asked.prompt, n=asked.n, **asked.how)
    for index in range(asked.n):
        assert bench.end(name, index).finish in ("stop", "length"), front.ends[name, index]
    rest = asked.how | {"prompt_logprobs": 0}
    cuts = [(index, cut) for index in range(asked.n) for cut in range(1, len(front.tokens[name, index]))]
    for index, cut in cuts:
        emitted = front.tokens[name, index][:cut]
        front.ask(f"{name}-{cut}", asked.prompt, index=index, emitted=emitted, **rest)
    return [place for place in cuts if not _same(bench, name, *place)]


def _same(bench: Bench, name: str, index: int, cut: int) -> bool:
    front, whole, again = bench.front, (name, index), (f"{name}-{cut}", index)
    end = bench.end(*again)
    if (end.finish, front.tokens[again]) != (bench.end(*whole).finish, front.tokens[whole][cut:]):
        return False
    return front.logprobs[again] == front.logprobs[whole][cut:]


def sampling() -> st.SearchStrategy[dict[str, Any]]:
    """Ways to choose tokens, each with some parameters of every kind."""
    penalty = st.sampled_from([-1.5, 0.0, 2.0])
    token = st.integers(3, VOCAB - 1)
    return st.fixed_dictionaries(
        {
            "max_tokens": st.integers(2, 14),
            "temperature": st.sampled_from([0.0, 0.7, 1.5]),
            "seed": st.integers(0, 2**64 - 1),
        },
        optional={
            "top_k": st.integers(1, 40),
            "top_p": st.sampled_from([0.5, 0.95]),
            "min_p": st.just(0.02),
            "min_tokens": st.integers(0, 8),
            "stop_token_ids": st.lists(token, min_size=20, max_size=60, unique=True).map(pack_u32),
            "logprobs": st.integers(1, 4),
            "prompt_logprobs": st.integers(0, 2),
            "frequency_penalty": penalty,
            "presence_penalty": penalty,
            "repetition_penalty": st.sampled_from([0.7, 1.0, 1.4]),
            "allowed_token_ids": st.lists(token, min_size=4, max_size=30, unique=True).map(pack_u32),
            "bad_words": st.lists(st.lists(token, min_size=1, max_size=2).map(pack_u32), max_size=20).map(tuple),
        },
    )


@given(length=st.integers(1, 90), start=st.integers(0, 200), n=st.integers(1, 3), how=sampling())
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_goes_on_is_what_would_come(bench: Bench, length: int, start: int, n: int, how: dict[str, Any]) -> None:
    """Whatever way tokens are chosen in, after every token of every continuation, in another batch."""
    assert not differing(bench, Asked(words(length, start), n, how))
    bench.empty()


@pytest.mark.parametrize("seed", range(6))
def test_a_grammar_goes_on(bench: Bench, seed: int) -> None:
    """From where the tokens led that were there, with penalties and with log-probabilities, which forbid to force."""
    grammar = random_grammar(40 + seed).lark.encode()
    how = {"grammar": grammar, "max_tokens": 60, "temperature": [0.0, 1.0, 1.4][seed % 3], "seed": seed}
    how |= [{}, {"logprobs": 2}, {"presence_penalty": 1.5, "min_tokens": 4}][seed % 3]
    assert not differing(bench, Asked(words(20, seed), 1 + seed % 2, how))
    bench.empty()


def test_one_that_goes_on_is_aborted_by_its_number(bench: Bench) -> None:
    """By itself or with its whole request, and none of the others is."""
    for name, every in (("number", False), ("request", True)):
        bench.ask(name, words(30, 4), max_tokens=400, emitted=words(3), index=5)
        wait_for(lambda name=name: bench.front.tokens.get((name, 5)), "it goes on", 30)
        bench.front.inbox.put(Abort(name, 4, every=False))
        more = len(bench.front.tokens[name, 5]) + 4
        wait_for(lambda more=more, name=name: len(bench.front.tokens[name, 5]) > more, "it goes on still", 30)
        bench.front.inbox.put(Abort(name, 5, every=every))
        bench.empty()


@pytest.mark.parametrize(
    "wrong",
    [
        {"index": -1},
        {"index": 1024},
        {"index": 1, "n": 2},
        {"emitted": [5], "n": 2},
        {"emitted": [5] * 8},
        {"emitted": [VOCAB]},
        {"index": 1, "beam_width": 2},
    ],
)
def test_what_cannot_go_on_is_refused(bench: Bench, wrong: dict[str, Any]) -> None:
    """Under the number that it was asked for: several with tokens of one, a number of none, nothing left to draw."""
    name = f"wrong-{next(NAMES)}"
    bench.front.ask(name, words(8), **wrong)
    first = wrong.get("index", 0)
    assert [bench.end(name, first + k).code for k in range(wrong.get("n", 1))] == ["invalid"] * wrong.get("n", 1)


# --- planted faults ----------------------------------------------------------------------------------------------

DRAWN = {"max_tokens": 12, "temperature": 1.0, "seed": 3}
LOST_POSITION, LOST_NUMBER, LOST_BOUNDARY, LOST_GRAMMAR = "position", "number", "boundary", "grammar"
FAULTS: dict[str, dict[str, Any]] = {
    LOST_POSITION: DRAWN,
    LOST_NUMBER: DRAWN,
    LOST_BOUNDARY: DRAWN | {"frequency_penalty": 2.0},
    LOST_GRAMMAR: {"max_tokens": 60, "grammar": b"start: /[a-c]{3}[d-f]{3}[g-k]{3}/"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen(bench: Bench, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position or number that is not carried, generated tokens taken for prompt, a grammar that begins anew."""
    asked = Asked(words(20), 2, FAULTS[fault])
    assert not differing(bench, asked)
    _plant(fault, monkeypatch)
    with_fault: list[Any] = []
    try:
        with_fault = differing(bench, asked)
    except AssertionError as end:  # an error instead of an end
        with_fault = [end]
    assert with_fault
    monkeypatch.undo()
    bench.empty()


def _plant(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, of = Sequence.sample_row, Request.of.__func__  # type: ignore[attr-defined]

    def placed(self: Sequence, index: int, *rest: Any) -> SampleRow:
        found = row(self, index, *rest)
        if fault == LOST_NUMBER:
            return replace(found, index=0) if self.request.emitted else found
        return replace(found, position=found.position - len(self.request.emitted))

    def begun(cls: type[Request], message: Any, eos_ids: frozenset[int]) -> Request:
        request: Request = of(cls, message, eos_ids)
        if request.emitted:
            request.prompt += request.emitted.tobytes()
            request.emitted = array("I")
        return request

    if fault in (LOST_POSITION, LOST_NUMBER):
        monkeypatch.setattr(Sequence, "sample_row", placed)
    elif fault == LOST_BOUNDARY:
        monkeypatch.setattr(Request, "of", classmethod(begun))
    else:
        enter = Sequence.enter_grammar

        def entered(self: Sequence) -> None:
            enter(self)
            if self.request.emitted and self.request.grammar:
                self.grammar = self.request.grammar.after([])

        monkeypatch.setattr(Sequence, "enter_grammar", entered)
