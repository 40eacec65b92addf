"""A request's answer on a CPU, bit by bit: alone, and in a batch that is preempted, cached, drafted for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quire_engine.attention.cpu import chain
from quire_engine.engine import Engine
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.grammar import GrammarState
from quire_engine.model import model as model_room
from tests.support.engine_loop import VOCAB, Queues, engine_on, kvstore, words
from tests.support.grammars import Letters
from tests.support.host_library import need_host_library

need_host_library()

pytestmark = pytest.mark.process
AT_ONCE = 32
MOST_BATCHES = 5
WAYS: list[dict[str, Any]] = [
    {"logprobs": 4},
    {"temperature": 1.0, "logprobs": 2},
    {"temperature": 1.3, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "logprobs": 1, "prompt_logprobs": 3},
    {"temperature": 1.0, "logprobs": 3, "grammar": b'start: "ab" /[a-e]{2}/ "cdab" /[f-k]{3,9}/'},
    {"logprobs": 2, "frequency_penalty": 0.7, "repetition_penalty": 1.3, "prompt_logprobs": 1},
]
MODELS: dict[str, dict[str, Any]] = {
    "full attention": {},
    "window": {"family": "mistral", "window": 100, "blocks": 16},  # given back, and still short of memory
}


@dataclass
class Running:
    """An engine with too little memory for all requests at once."""

    engine: Engine
    front: Queues

    def answers(self, tenant: str, count: int, at_once: int) -> list[Any]:
        """Tokens, log-probabilities, those of the prompt, and the end of each request, as ``tenant`` asks them."""
        before = len(self.front.ends)
        names = [f"{tenant}-{before}-{i}" for i in range(count)]
        for first in range(0, count, at_once):
            for i in range(first, first + at_once):
                begun = words(90) if i % 3 == 0 else []
                prompt = begun + words(1 + 29 * i % 97, 11 * i)
                self.front.ask(names[i], prompt, tenant=tenant, seed=i, max_tokens=20, **WAYS[i % len(WAYS)])
            for name in names[first : first + at_once]:
                assert self.front.end(name).finish in ("stop", "length"), self.front.end(name)
        found = (self.front.tokens, self.front.logprobs, self.front.scores)
        return [(*(of.get((name, 0)) for of in found), self.front.end(name).finish) for name in names]

    def preemptions(self) -> int:
        return self.engine.load().counters["preemptions"]


@contextmanager
def running(tmp: Path, blocks: int = 40, **model: Any) -> Iterator[Running]:
    compiler = GrammarCompiler(lambda: Letters(VOCAB))
    with (
        kvstore(tmp, blocks, **model) as (run_dir, model_dir),
        engine_on(run_dir, model_dir, slots=AT_ONCE, compiler=compiler) as (engine, front),
    ):
        yield Running(engine, front)
    compiler.close()


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_is_the_same_in_any_batch(model: str, tmp_path: Path) -> None:
    """Tokens and log-probabilities of 32 requests of five ways to choose them are those of each request alone; many are
    preempted, their prompts are computed in chunks beside decodes, and a third of them share a beginning."""
    with running(tmp_path, **MODELS[model]) as bed:
        alone = bed.answers("alone", AT_ONCE, 1)
        assert bed.preemptions() == 0
        for turn in range(MOST_BATCHES):  # how requests meet is not the test's to say
            assert bed.answers(f"batch-{turn}", AT_ONCE, AT_ONCE) == alone
            if bed.preemptions():
                return
        raise AssertionError("memory was short for none")


def test_nor_do_drafts_or_the_cache_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With prompts that are found in the cache, and without drafts of what a grammar forces."""
    with running(tmp_path, blocks=400) as bed:
        alone = bed.answers("tenant", AT_ONCE, 1)
        drafted = bed.engine.load().counters["forced_tokens"]
        assert drafted > 0
        assert bed.answers("tenant", AT_ONCE, AT_ONCE) == alone
        drafted = bed.engine.load().counters["forced_tokens"]
        monkeypatch.setattr(GrammarState, "foreseen", lambda *_: ())
        assert bed.answers("other", AT_ONCE, AT_ONCE) == alone
        assert bed.engine.load().counters["forced_tokens"] == drafted


@pytest.mark.parametrize("fault", ["products", "keys"])
def test_each_dependence_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own products, or a row's keys divided where a shared beginning ends: some log-probability differs."""
    if fault == "products":
        monkeypatch.setattr(model_room, "fuse_linear", lambda _: 0)
    else:
        monkeypatch.setattr(chain, "KEYS", 16)
    with running(tmp_path, blocks=400) as bed:
        assert bed.answers("batch", 10, 10) != bed.answers("alone", 10, 1)
