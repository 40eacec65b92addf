"""An engine's loop in this process, over a real kvstore process; the gateway's place is taken by a queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from bench.models.tiny import FIRST_WORD, make_model
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.checkpoint.layout import layout_of
from quire_engine.engine import Engine
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.kv.attach import arena_of
from quire_engine.model.model import Model, load_model
from quire_engine.model.runner import Runner
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_engine.scheduling.step_log import StepLog
from quire_proto.client.client import KVClient, KVReader
from quire_proto.gateway_link import Generate, Output, Outputs, Sampling, TokenLogprob
from quire_proto.messages import Stats
from quire_proto.spans import Tracer
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.support.kvstore import Kvstore
from tests.support.reference import Reference
from tests.support.waits import wait_for

BLOCKS = 40
VOCAB = 256


class Queues:
    """What the engine needs of its front, for a test that is its gateway."""

    connected = False

    def __init__(self) -> None:
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.ends: dict[tuple[str, int], Any] = {}
        self.firsts: dict[tuple[str, int], Output] = {}  # which say how much was cached
        self.logprobs: dict[tuple[str, int], list[TokenLogprob]] = {}
        self.scores: dict[tuple[str, int], tuple[TokenLogprob, ...]] = {}

    def receive(self, timeout_s: float) -> list[Any]:
        try:
            first = self.inbox.get(timeout=timeout_s) if timeout_s else self.inbox.get_nowait()
        except Empty:
            return []
        return [m for m in [first, *(self.inbox.get_nowait() for _ in range(self.inbox.qsize()))] if m is not None]

    def wake(self) -> None:
        self.inbox.put(None)

    def report(self) -> None:
        pass

    def send(self, outputs: Outputs) -> None:
        for item in outputs.items:
            key = (item.request, item.index)
            assert key not in self.ends, "an output after the end"
            if item.prompt_logprobs:
                assert key not in self.tokens, "said before any token"
                self.scores[key] = (*self.scores.get(key, ()), *item.prompt_logprobs)
                continue
            self.firsts.setdefault(key, item)
            if not item.tokens and not item.finish:
                continue
            self.tokens.setdefault(key, []).extend(unpack_u32(item.tokens))
            self.logprobs.setdefault(key, []).extend(item.logprobs)
            if item.finish:
                self.ends[key] = item

    def ask(
        self,
        name: str,
        prompt: list[int],
        n: int = 1,
        tenant: str = "tenant",
        priority: int = 0,
        salt: str = "",
        emitted: list[int] | None = None,
        index: int = 0,
        **sampling: Any,
    ) -> None:
        """Send a request; greedy, eight tokens, unless told otherwise."""
        how = Sampling(**{"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, **sampling})
        done = pack_u32(emitted or [])
        self.inbox.put(Generate(name, tenant, pack_u32(prompt), how, n, index, priority, done, salt))

    def end(self, name: str, index: int = 0) -> Any:
        """The last output of a continuation, waited for."""
        return wait_for(lambda: self.ends.get((name, index)), f"{name} {index} ended", 30)


class Bench:
    """A running engine, its kvstore, and what transformers says."""

    def __init__(self, engine: Engine, front: Queues, run_dir: Path, reference: Reference) -> None:
        self.engine, self.front, self.run_dir, self.reference = engine, front, run_dir, reference

    def stats(self) -> Stats:
        with KVReader(self.run_dir) as reader:
            return reader.stats()

    def ask(self, name: str, prompt: list[int], n: int = 1, **sampling: Any) -> None:
        self.front.ask(name, prompt, n=n, **sampling)

    def end(self, name: str, index: int = 0) -> Any:
        return self.front.end(name, index)

    def empty(self) -> None:
        """Everything came back and the pool adds up."""
        wait_for(lambda: self.stats().blocks["held"] == 0, "all blocks came back", 5)
        blocks = self.stats().blocks
        assert blocks["free"] + blocks["cached"] == blocks["total"]


def on_cpu(model: Model, client: KVClient) -> Runner:
    """A runner on the CPU backend."""
    return Runner(model, CpuAttention(arena_of(client)))


@contextmanager
def kvstore(tmp: Path, blocks: int = BLOCKS, *flags: str, **model_options: Any) -> Iterator[tuple[Path, Path]]:
    """A kvstore process of ``blocks`` blocks for a tiny model; the run directory and the model's."""
    model_dir = make_model(tmp / "model", **{"vocab": VOCAB, **model_options})
    layout = layout_of(model_dir, "float32", 16)
    kvstore = Kvstore(tmp / "run", "--lease-ms=5000", *flags, blocks=blocks, layout=layout, published=()).start()
    try:
        yield kvstore.run_dir, model_dir
    finally:
        kvstore.stop()


@contextmanager
def engine_on(
    run_dir: Path,
    model_dir: Path,
    make_runner: Callable[[Model, KVClient], Runner] = on_cpu,
    client_class: type[KVClient] = KVClient,
    name: str = "engine",
    slots: int = 8,
    prefill: bool = True,
    compiler: GrammarCompiler | None = None,
    front: Queues | None = None,
    tracer: Tracer | None = None,
    link: Callable[[Engine], Any] = lambda _: Queues(),
) -> Iterator[tuple[Engine, Any]]:
    """An engine on a thread of its own, attached to the kvstore at ``run_dir``. ``link``: makes its front, if that is
    not given."""
    model, layout = load_model(model_dir), layout_of(model_dir, "float32", 16)
    engine = Engine(
        attach=lambda: client_class(run_dir, name=name, layout=layout),
        make_runner=lambda client: make_runner(model, client),
        limits=SchedulerLimits(slots, 64, 16),
        max_model_len=4096,
        vocab_size=model.vocab_size,
        eos_ids=frozenset({2}),
        step_log=StepLog(None),
        prefill=prefill,
        compiler=compiler,
        tracer=tracer,
    )
    engine.front = made = front or link(engine)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        wait_for(lambda: engine.load().ready, "the engine is attached", 30)
        yield engine, made
    finally:
        engine.stop()
        thread.join(30)


@contextmanager
def running_engine(
    tmp: Path,
    make_runner: Callable[[Model, KVClient], Runner] = on_cpu,
    client_class: type[KVClient] = KVClient,
    compiler: GrammarCompiler | None = None,
    **model_options: Any,
) -> Iterator[Bench]:
    """A kvstore of ``BLOCKS`` blocks and an engine attached to it."""
    with kvstore(tmp, **model_options) as (run_dir, model_dir):
        with engine_on(run_dir, model_dir, make_runner, client_class, compiler=compiler) as (engine, front):
            yield Bench(engine, front, run_dir, Reference(model_dir))


def words(n: int, start: int = 0) -> list[int]:
    return [FIRST_WORD + (start + 3 * i) % (VOCAB - FIRST_WORD) for i in range(n)]
