"""Two engines over one kvstore, and a gateway in this process that has what they compute go to and fro between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quire_engine.engine import Engine
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_proto.client.client import KVClient, KVReader
from quire_proto.gateway_link import HANDOFF, Continuation, Generate, Handoff, Output, Outputs, Sampling, TokenLogprob
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.support.engine_loop import Queues, engine_on, kvstore, on_cpu
from tests.support.waits import wait_for


@dataclass
class Told:
    """What came of a continuation, by whichever engine."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str = ""
    code: str = ""
    moves: int = 0
    computed: int = 0


class Side(Queues):
    """One engine's queue: what it sends goes to the gateway of both."""

    def __init__(self, movers: Movers, place: int) -> None:
        super().__init__()
        self._movers, self._place = movers, place

    def send(self, outputs: Outputs) -> None:
        for item in outputs.items:
            self._movers.take(self._place, item)


class Movers:
    """The gateway: it moves each continuation after ``every`` more tokens (0: never) until it has ended."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self.sides = [Side(self, 0), Side(self, 1)]
        self.run_dir = Path()
        self.every = 0
        self.change: Callable[[Generate], Generate | None] | None = None
        self.last: Generate | None = None
        self._asked: dict[str, Generate] = {}
        self._told: dict[tuple[str, int], Told] = {}
        self._since: dict[tuple[str, int], int] = {}
        self._lock = threading.RLock()

    def ask(self, name: str, prompt: list[int], n: int = 1, place: int = 0, salt: str = "", **how: Any) -> None:
        """Send a request to an engine; greedy, eight tokens, unless told otherwise."""
        sampling = Sampling(**{"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, **how})
        self._asked[name] = message = Generate(name, "tenant", pack_u32(prompt), sampling, n, salt=salt)
        self._told |= {(name, index): Told() for index in range(n)}
        self.sides[place].inbox.put(message)

    def move(self, place: int, *of: tuple[str, int], to: int | None = None) -> None:
        """Have an engine hand these over to the other one."""
        target = self.engines[1 - place if to is None else to].load().session
        items = tuple(Continuation(name, index) for name, index in of)
        self.sides[place].inbox.put(Handoff(target, items))

    def take(self, place: int, output: Output) -> None:
        """An output of one of the engines, on its thread."""
        key = (output.request, output.index)
        with self._lock:
            told = self._told[key]
            assert not told.finish, "an output after the end"
            if output.finish == "abort":
                told.moves, told.computed = told.moves + 1, output.computed
                self._go_on(1 - place, key, output)
                return
            if output.prompt_logprobs:
                return
            told.tokens += unpack_u32(output.tokens)
            told.logprobs += output.logprobs
            told.finish, told.code = output.finish, output.code
            self._since[key] = self._since.get(key, 0) + len(output.tokens) // 4
            if self.every and self._since[key] >= self.every and not output.finish:
                self._since[key] = 0
                self.move(place, key)

    def _go_on(self, place: int, key: tuple[str, int], output: Output) -> None:
        asked, emitted = self._asked[key[0]], self._told[key].tokens
        others = [told for (name, _), told in self._told.items() if name == key[0]]
        if not emitted and key[1] and all(not told.tokens for told in others):
            return  # the first is asked for all
        n = asked.n if not emitted and not key[1] else 1
        again = Generate(
            asked.request, asked.tenant, asked.tokens, asked.sampling, n, key[1], 0, pack_u32(emitted), asked.salt,
            offer=output.offer, computed=output.computed, cause=HANDOFF,
        )  # fmt: skip
        self.last = again
        if (changed := self.change(again) if self.change else again) is not None:
            self.sides[place].inbox.put(changed)

    def told(self, name: str, index: int) -> Told:
        """What has come of a continuation so far."""
        return self._told[name, index]

    def result(self, name: str) -> list[Told]:
        """What came of a request, when all of it has ended."""
        told = [told for (of, _), told in self._told.items() if of == name]
        wait_for(lambda: all(one.finish for one in told), f"{name} ended", 60)
        return told

    def count(self, name: str) -> int:
        """A counter of both engines."""
        return sum(engine.load().counters[name] for engine in self.engines)

    def empty(self) -> None:
        """Everything came back, the pool adds up, and the store's invariants hold."""
        with KVReader(self.run_dir) as reader:
            wait_for(lambda: reader.stats().blocks["held"] == 0, "all blocks came back", 15)
            blocks = reader.stats().blocks
        assert blocks["free"] + blocks["cached"] == blocks["total"]


@contextmanager
def movers(
    tmp: Path,
    make_runner: Callable[[Model, KVClient], Runner] = on_cpu,
    compiler: GrammarCompiler | None = None,
    blocks: int = 120,
    **model_options: Any,
) -> Iterator[Movers]:
    """Start them."""
    it = Movers()
    with ExitStack() as stack:
        it.run_dir, model_dir = stack.enter_context(kvstore(tmp, blocks, **model_options))
        for place, name in enumerate(("one", "two")):
            engine, _ = stack.enter_context(
                engine_on(it.run_dir, model_dir, make_runner, name=name, compiler=compiler, front=it.sides[place])
            )
            it.engines.append(engine)
        yield it
