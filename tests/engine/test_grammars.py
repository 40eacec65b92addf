"""Answers that are held to a grammar, through the engine's loop over a real kvstore, one step in flight and two."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from llguidance import LLParserLimits

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.grammar import GrammarState
from quire_engine.kv.attach import arena_of
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_proto.client.client import KVClient
from quire_proto.gateway_link import MAX_GRAMMAR, Abort
from quire_proto.wire.u32 import pack_u32
from tests.engine.scheduling.slow_device import WorkerQueue
from tests.support.engine_loop import VOCAB, Bench, on_cpu, running_engine, words
from tests.support.grammars import EOS, Letters, RandomGrammar, random_grammar
from tests.support.waits import wait_for

LETTERS = Letters(VOCAB)
MADE = 24  # random grammars


class Pen:
    """A bench, and the words for what its requests write."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.front = bench, bench.front

    def ask(self, name: str, prompt: list[int], grammar: str, **options: Any) -> None:
        self.bench.ask(name, prompt, grammar=grammar.encode(), **options)

    def text(self, name: str, index: int = 0) -> str:
        return LETTERS.text(self.front.tokens[name, index])

    def finished(self, name: str, grammar: RandomGrammar, index: int = 0) -> str:
        """The whole of an answer, which is one of the grammar's."""
        end = self.bench.end(name, index)
        assert (end.finish, end.code) == ("stop", ""), end
        assert grammar.pattern.fullmatch(self.text(name, index)), (self.text(name, index), grammar.lark)
        return self.text(name, index)


def two_in_flight(model: Model, client: KVClient) -> Runner:
    return Runner(model, CpuAttention(arena_of(client)), WorkerQueue(0.002))


@pytest.fixture(scope="module", params=[on_cpu, two_in_flight], ids=["one", "two"])
def pen(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Pen]:
    compiler = GrammarCompiler(lambda: LETTERS)
    with running_engine(tmp_path_factory.mktemp("grammars"), request.param, compiler=compiler) as bench:
        yield Pen(bench)
    compiler.close()


def schema(of: object) -> str:
    return json.dumps({"grammars": [{"json_schema": of}]})


def how(seed: int) -> dict[str, Any]:
    """Greedy, random and filtered draws in turn."""
    ways: list[dict[str, Any]] = [{}, {"temperature": 1.0}, {"temperature": 1.3, "top_p": 0.9}, {"temperature": 0.7}]
    return {"seed": seed, "max_tokens": 200, **ways[seed % 4]}


@pytest.mark.process
def test_every_answer_is_one_of_its_grammar(pen: Pen) -> None:
    """Answers of random grammars are in them, many at a time, beside answers that are held to nothing."""
    free = words(30, 2)
    for seed in range(MADE):
        pen.ask(f"any-{seed}", words(10 + seed, seed), grammar=random_grammar(seed).lark, **how(seed))
        if seed % 6 == 0:
            pen.bench.ask(f"free-{seed}", free, max_tokens=20)
    texts = [pen.finished(f"any-{seed}", random_grammar(seed)) for seed in range(MADE)]
    assert len(set(texts)) > MADE // 2
    for seed in range(0, MADE, 6):
        pen.bench.end(f"free-{seed}")
        assert pen.front.tokens[f"free-{seed}", 0] == pen.bench.reference.greedy(free, 20)
    for seed in range(MADE):  # alone: the same text
        pen.ask(f"alone-{seed}", words(10 + seed, seed), grammar=random_grammar(seed).lark, **how(seed))
        assert pen.finished(f"alone-{seed}", random_grammar(seed)) == texts[seed]
    pen.bench.empty()


@pytest.mark.process
def test_branches_of_a_prompt(pen: Pen) -> None:
    """Each of four continuations of a prompt, longer than a step's budget, is held to the grammar by itself."""
    for seed in range(4):
        name, grammar = f"branches-{seed}", random_grammar(100 + seed)
        prompt = words(150, seed)  # chunks of 64
        pen.ask(name, prompt, n=4, grammar=grammar.lark, seed=seed, max_tokens=200, temperature=1.5)
        for index in range(4):
            pen.finished(name, grammar, index)
    digits = "start: /[a-z0-9]{12}/"
    pen.ask("many", words(40, 5), n=4, grammar=digits, temperature=1.5, max_tokens=40)
    for index in range(4):
        pen.bench.end("many", index)
    assert len({pen.text("many", index) for index in range(4)}) == 4
    pen.bench.empty()


@pytest.mark.process
def test_preempted_answers_go_on_in_their_grammar(pen: Pen) -> None:
    """Eight answers that need twice the pool are preempted and computed again, and their texts are those without it."""
    grammar = 'start: /([a-g][0-9]){40}/ "!"'
    alone = {}
    for i in range(8):
        pen.ask(f"calm-{i}", words(50 + 5 * i, 7 * i), grammar=grammar, **{**how(i), "max_tokens": 100})
        assert pen.bench.end(f"calm-{i}").finish == "stop"
        alone[i] = pen.text(f"calm-{i}")
    before = pen.bench.engine.load().counters["preemptions"]
    for i in range(8):
        pen.ask(f"press-{i}", words(50 + 5 * i, 7 * i), grammar=grammar, **{**how(i), "max_tokens": 100})
    for i in range(8):
        assert pen.bench.end(f"press-{i}").finish == "stop"
        assert pen.text(f"press-{i}") == alone[i]
    assert pen.bench.engine.load().counters["preemptions"] > before
    pen.bench.empty()


@pytest.mark.process
def test_answers_go_on_elsewhere_from_their_tokens(pen: Pen) -> None:
    """Sent again with what it had emitted, an answer goes on in its grammar as it would have."""
    grammar = random_grammar(7)
    asked = {**how(1), "grammar": grammar.lark.encode()}
    pen.bench.ask("whole", words(20), **asked)
    pen.finished("whole", grammar)
    tokens = pen.front.tokens["whole", 0]
    for cut in range(1, len(tokens) + 1):
        pen.front.ask(f"cut-{cut}", words(20), emitted=tokens[:cut], **asked)
        assert pen.bench.end(f"cut-{cut}").finish == "stop"
        assert pen.front.tokens[f"cut-{cut}", 0] == tokens[cut:]
    pen.front.ask("wrong", words(20), emitted=LETTERS.encode("~~"), **asked)
    end = pen.bench.end("wrong")
    assert (end.finish, end.code) == ("error", "grammar")
    pen.bench.empty()


@pytest.mark.process
def test_a_json_schema(pen: Pen) -> None:
    """A strict schema's answers are JSON of that shape."""
    of = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "days": {"type": "integer", "minimum": 1, "maximum": 99},
            "tags": {"type": "array", "items": {"enum": ["ab", "cd", "true"]}, "maxItems": 3},
            "sure": {"type": "boolean"},
        },
        "required": ["city", "days", "tags", "sure"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
    for seed in range(6):
        pen.ask(f"json-{seed}", words(20, seed), grammar=schema(of), **how(seed))
    for seed in range(6):
        assert pen.bench.end(f"json-{seed}").finish == "stop"
        found = json.loads(pen.text(f"json-{seed}"))
        assert list(found) == ["city", "days", "tags", "sure"]
        assert isinstance(found["city"], str)
        assert 1 <= found["days"] <= 99
        assert set(found["tags"]) <= {"ab", "cd", "true"}
        assert found["sure"] in (True, False)


@pytest.mark.process
def test_ends_and_bounds(pen: Pen) -> None:
    """The end of the grammar is the end, whatever min_tokens says; max_tokens and stop tokens hold as elsewhere."""
    ask, end, tokens = pen.ask, pen.bench.end, pen.front.tokens
    ask("early", words(9), grammar='start: "ab"', min_tokens=6)
    assert end("early").finish == "stop"
    assert tokens["early", 0] in (LETTERS.encode("ab"), [LETTERS.spelled.index(b"ab")])
    ask("late", words(9), grammar="start: /a{0,30}/", min_tokens=6, ignore_eos=False, max_tokens=50)
    assert end("late").finish == "stop"
    assert len(tokens["late", 0]) > 6
    assert EOS not in tokens["late", 0][:6]
    ask("short", words(9), grammar="start: /[a-c]{20}d/", max_tokens=3)
    assert end("short").finish == "length"
    stop = LETTERS.encode("3")
    ask("digit", words(9), grammar="start: /[a-c]{3}3[a-c]{3}/", stop_token_ids=pack_u32(stop), max_tokens=30)
    assert end("digit").finish == "stop"
    assert tokens["digit", 0][-1:] == stop
    ask("logprobs", words(9), grammar='start: "g"', logprobs=3)
    assert end("logprobs").logprobs[0].logprob < 0, "those of the raw logits"


@pytest.mark.process
@pytest.mark.parametrize(
    "text", ['start: "a', "start: foo", "start: /a/" + " " * MAX_GRAMMAR, schema({"type": "nope"})]
)
def test_what_is_no_grammar_fails_its_own_request(pen: Pen, text: str) -> None:
    """All continuations of that request end with an error, and one that runs is as it would have been."""
    pen.bench.ask("beside", words(30, 4), max_tokens=20)
    pen.ask("bad", words(12), n=2, grammar=text)
    for index in range(2):
        end = pen.bench.end("bad", index)
        assert (end.finish, end.code) == ("error", "grammar")
        assert "grammar" in end.message
    pen.bench.end("beside")
    assert pen.front.tokens["beside", 0] == pen.bench.reference.greedy(words(30, 4), 20)
    pen.bench.empty()
    for key in [("beside", 0), ("bad", 0), ("bad", 1)]:
        pen.front.tokens.pop(key, None)
        pen.front.ends.pop(key)


@pytest.mark.process
def test_a_grammar_that_becomes_too_expensive_ends_its_own_answer(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a mask cannot be made the answer ends there with an error, and one beside it is as it would have been."""
    limits = partial(LLParserLimits, verbose_errors=False, step_lexer_fuel=60, precompute_large_lexemes=False)
    monkeypatch.setattr("quire_engine.grammar.trial.LLParserLimits", lambda **_: limits())
    compiler = GrammarCompiler(lambda: LETTERS)
    with running_engine(tmp_path, compiler=compiler) as bench:
        bench.ask("beside", words(30, 4), max_tokens=20)
        bench.ask("dear", words(20), grammar=b'start: "abc" /(x|y)*x(x|y){8}/', max_tokens=40)
        end = bench.end("dear")
        assert (end.finish, end.code) == ("error", "grammar")
        assert "too many" in end.message
        assert LETTERS.text(bench.front.tokens["dear", 0]).startswith("abc")
        bench.end("beside")
        assert bench.front.tokens["beside", 0] == bench.reference.greedy(words(30, 4), 20)
        bench.empty()
    compiler.close()


def slow(go_on: threading.Event) -> Callable[[], Letters]:
    def tokens() -> Letters:
        assert go_on.wait(60)
        return LETTERS

    return tokens


@pytest.mark.process
def test_others_go_on_while_a_grammar_is_compiled(tmp_path: Any) -> None:
    """A held request takes no slot, may be aborted, and begins when its grammar is there."""
    go_on = threading.Event()
    compiler = GrammarCompiler(slow(go_on))
    with running_engine(tmp_path, compiler=compiler) as bench:
        for name in ("held", "gone"):
            bench.ask(name, words(20), grammar=b'start: "abc"')
        wait_for(lambda: bench.engine.load().waiting == 2, "both are held", 10)
        for i in range(8):
            bench.ask(f"free-{i}", words(20, i))
            assert bench.end(f"free-{i}").finish == "length"
        bench.front.inbox.put(Abort("gone"))
        wait_for(lambda: bench.engine.load().waiting == 1, "one is gone", 10)
        go_on.set()
        assert bench.end("held").finish == "stop"
        assert LETTERS.text(bench.front.tokens["held", 0]) == "abc"
        assert ("gone", 0) not in bench.front.tokens
        bench.empty()
    compiler.close()


@pytest.mark.process
def test_engines_without_a_vocabulary(tmp_path: Any) -> None:
    """Requests with a grammar are refused where there is no compiler, and fail where the vocabulary cannot be read."""

    def unreadable() -> Letters:
        raise OSError("no such file")

    for number, (compiler, code) in enumerate([(None, "grammar"), (GrammarCompiler(unreadable), "internal")]):
        (folder := tmp_path / str(number)).mkdir()
        with running_engine(folder, compiler=compiler) as bench:
            bench.ask("held", words(20), grammar=b'start: "abc"')
            end = bench.end("held")
            assert (end.finish, end.code) == ("error", code)
            bench.ask("free", words(20))
            assert bench.end("free").finish == "length"


TOOL_CALL = {
    "type": "object",
    "properties": {
        "name": {"const": "get_current_weather"},
        "arguments": {
            "type": "object",
            "properties": {"location": {"type": "string", "maxLength": 4}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["location", "unit"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


@pytest.mark.process
def test_forced_tokens_are_those_that_would_be_drawn(pen: Pen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool call is the same whether its forced tokens are drawn one by one or taken at once, in fewer steps."""
    steps, forced = {}, {}
    counters = pen.bench.engine.load
    for taken in (False, True):
        with monkeypatch.context() as patch:
            if not taken:
                patch.setattr(GrammarState, "foreseen", lambda *_: ())
            before = dict(counters().counters)
            for seed in range(4):
                pen.ask(f"call-{taken}-{seed}", words(30, 3 * seed), schema(TOOL_CALL), n=1 + seed % 2, **how(seed))
                for index in range(1 + seed % 2):
                    assert pen.bench.end(f"call-{taken}-{seed}", index).finish == "stop"
            steps[taken] = counters().counters["steps"] - before["steps"]
            forced[taken] = counters().counters["forced_tokens"] - before["forced_tokens"]
    for seed in range(4):
        for index in range(1 + seed % 2):
            tokens = pen.front.tokens[f"call-True-{seed}", index]
            assert tokens == pen.front.tokens[f"call-False-{seed}", index]
            assert json.loads(LETTERS.text(tokens))["name"] == "get_current_weather"
    assert forced[False] == 0
    assert forced[True] > 100
    assert steps[True] < steps[False] / 2
    pen.ask("counted", words(30), schema(TOOL_CALL), max_tokens=20)
    assert pen.bench.end("counted").finish == "length"
    assert len(pen.front.tokens["counted", 0]) == 20
    pen.ask("measured", words(30), schema(TOOL_CALL), logprobs=1, max_tokens=200)
    pen.bench.end("measured")
    assert pen.front.tokens["measured", 0] == pen.front.tokens["call-True-0", 0]
    pen.bench.empty()
