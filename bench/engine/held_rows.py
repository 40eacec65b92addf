"""Held rows: runs of an engine in this process whose rows are held to a grammar, with clocks at what that adds.

Owns the vocabulary that grammars are compiled for and the clocks; what is asked, and what is made of the figures, is
the benches'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from bench.models.sizes import REAL, model_directory
from bench.processes.kvprocess import KVProcess
from quire_engine.checkpoint.vocabulary import read_vocabulary
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.grammar.grammar import GrammarState
from quire_engine.grammar.tokens import Tokens
from quire_engine.model.model import load_model
from quire_engine.model.runner import Runner
from quire_engine.model.token_masks import TokenMasks
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_proto.gateway_link import Generate, Sampling
from quire_proto.wire.u32 import pack_u32

from .inprocess import Script, TokenTimes, layout_of_model, make_engine
from .stopwatch import Stopwatch

BLOCK, BUDGET = 16, 2048
OWN = 8  # tokens of a prompt that no other has


class Pieces:
    """A vocabulary of single bytes and random pieces of words, for models that have none."""

    special, ends = (0,), (0,)

    def __init__(self, size: int) -> None:
        self._size = size

    @cached_property
    def spelled(self) -> list[bytes]:
        """The bytes of every token."""
        chance, found = Random(3), dict[bytes, None]()
        while len(found) < self._size - 257:
            word = "".join(chance.choice("etaoinshrdlucmfwypvbgkqjxz") for _ in range(chance.randint(2, 9)))
            found[(chance.choice((" ", "", "", '"')) + word).encode()] = None
        return [b"<end>", *(bytes([byte]) for byte in range(256)), *found]

    def encode(self, text: str) -> list[int]:
        """A text, a token for each byte."""
        return [1 + byte for byte in text.encode()]


@dataclass(frozen=True, slots=True)
class HeldRun:
    """What one run was: clocks by step, outputs by request, and the engine's counters."""

    steps: list[dict[str, float]]
    seen: dict[str, TokenTimes]
    counters: dict[str, int]


class HeldRows:
    """A model with its vocabulary: the real one's own, pieces of words for the others."""

    def __init__(self, size: str) -> None:
        self._directory = directory = model_directory(size)
        self.model = model = load_model(directory)
        self.vocabulary: Tokens = Pieces(model.vocab_size)
        if size == REAL:
            self.vocabulary = read_vocabulary(directory, model.vocab_size, model.eos_ids)

    def requests(self, rows: int, prompt: int, sampling: Sampling) -> list[Generate]:
        """Prompts of random tokens, alike but for the last few."""
        chance = Random(7)
        shared = [chance.randrange(7, self.model.vocab_size) for _ in range(prompt - OWN)]
        own = [[chance.randrange(7, self.model.vocab_size) for _ in range(OWN)] for _ in range(rows)]
        return [Generate(str(n), "t", pack_u32([*shared, *tail]), sampling) for n, tail in enumerate(own)]

    def play(self, asked: list[Generate], drafts: bool) -> HeldRun:
        """Have an engine answer, the first a moment before the others. Without ``drafts`` it looks for what is forced,
        and drafts nothing of it."""
        script = Script((0.001 * bool(number), request) for number, request in enumerate(asked))
        watch, rows, sampling = Stopwatch(), len(asked), asked[0].sampling
        longest = len(asked[0].tokens) // 4 + sampling.max_tokens
        limits, layout = SchedulerLimits(rows, BUDGET, BLOCK), layout_of_model(self._directory, BLOCK)
        compiler = GrammarCompiler(lambda: self.vocabulary)
        if sampling.grammar:
            compiler.compile("t", sampling.grammar.decode()).result()
        watch.wrap(TokenMasks, "apply", "lay", wall=True)
        watch.wrap(GrammarState, "accept", "accept", wall=True)
        watch.wrap(GrammarState, "foreseen", "look", wall=True)
        if not drafts:
            look = GrammarState.foreseen
            watch.replace(GrammarState, "foreseen", lambda state, most: look(state, most)[:0])
        try:
            with KVProcess((rows + 2) * -(-(longest + BLOCK) // BLOCK), BLOCK, layout) as kvstore:
                engine = make_engine(self.model, kvstore.directory, limits, layout, script, compiler=compiler)
                _wrap(engine, watch)
                engine.run()
        finally:
            watch.restore()
            compiler.close()
        return HeldRun(watch.steps, script.seen, dict(engine.load().counters))


def _wrap(engine: Any, watch: Stopwatch) -> None:
    make_runner = engine._make_runner

    def make(client: Any) -> Runner:
        runner: Runner = make_runner(client)
        inner = runner.launch

        def launch(work: Any, copies: Any) -> Any:
            watch.count("rows", sum(item.count for item in work))
            watch.count("sequences", len(work))
            return inner(work, copies)

        runner.launch = launch  # type: ignore[method-assign]
        watch.wrap(runner, "draw", "draw", wall=True)
        watch.wrap(runner, "_choose", "choose", wall=True)
        return runner

    engine._make_runner = make
    watch.wrap_step(engine, "_step")
