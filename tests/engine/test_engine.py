"""The engine loop against a real kvstore process; the gateway's place is taken by a queue on either side."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from bench.models import FIRST_WORD, make_model
from quire_engine.attach import arena_of
from quire_engine.cpu_attention import CpuAttention
from quire_engine.engine import Engine
from quire_engine.layout import layout_of
from quire_engine.model import load_model
from quire_engine.runner import Runner
from quire_engine.scheduler import SchedulerLimits
from quire_engine.steplog import StepLog
from quire_proto.client import KVClient, KVReader
from quire_proto.link import Abort, Generate, Outputs, Sampling
from quire_proto.messages import Stats
from quire_proto.packed import pack, unpack
from tests.e2e.reference import Reference
from tests.e2e.stack import wait_for

BLOCKS = 40
VOCAB = 256


class Queues:
    """What the engine needs of its front, for a test that is its gateway."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.ends: dict[tuple[str, int], Any] = {}

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
            self.tokens.setdefault(key, []).extend(unpack(item.tokens))
            if item.finish:
                self.ends[key] = item


class Bench:
    """A running engine, its kvstore, and what transformers says."""

    def __init__(self, engine: Engine, front: Queues, run_dir: Path, reference: Reference) -> None:
        self.engine, self.front, self.run_dir, self.reference = engine, front, run_dir, reference

    def stats(self) -> Stats:
        with KVReader(self.run_dir) as reader:
            return reader.stats()

    def ask(self, name: str, prompt: list[int], n: int = 1, **sampling: Any) -> None:
        how = Sampling(**{"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, **sampling})
        self.front.inbox.put(Generate(name, "tenant", pack(prompt), how, n=n))

    def end(self, name: str, index: int = 0) -> Any:
        return wait_for(lambda: self.front.ends.get((name, index)), 30, f"{name} {index} ended")

    def empty(self) -> None:
        """Everything came back and the pool adds up."""
        wait_for(lambda: self.stats().blocks["held"] == 0, 5, "all blocks came back")
        blocks = self.stats().blocks
        assert blocks["free"] + blocks["cached"] == blocks["total"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    tmp = tmp_path_factory.mktemp("engine")
    run_dir = tmp / "run"
    run_dir.mkdir(mode=0o700)
    model_dir = make_model(tmp / "model", vocab=VOCAB)
    layout = layout_of(model_dir, "float32", 16)
    (run_dir / "prepared.json").write_text(json.dumps({"layout": asdict(layout), "published": []}))
    command = [sys.executable, "-m", "quire_services.cli", "kvstore", "--run-dir", str(run_dir), "--debug"]
    kvstore = subprocess.Popen([*command, "--blocks", str(BLOCKS)])
    model = load_model(model_dir)
    engine = Engine(
        attach=lambda: KVClient(run_dir, name="engine", layout=layout),
        make_runner=lambda client: Runner(model, CpuAttention(arena_of(client))),
        limits=SchedulerLimits(8, 64, 16),
        max_model_len=4096,
        vocab_size=VOCAB,
        eos_ids=frozenset({2}),
        step_log=StepLog(None),
    )
    front = Queues()
    engine.front = front  # type: ignore[assignment]
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        wait_for(lambda: engine.load().ready, 30, "the engine is attached")
        yield Bench(engine, front, run_dir, Reference(model_dir))
    finally:
        engine.stop()
        thread.join(30)
        kvstore.terminate()
        assert kvstore.wait(10) == 0


def words(n: int, start: int = 0) -> list[int]:
    return [FIRST_WORD + (start + 3 * i) % (VOCAB - FIRST_WORD) for i in range(n)]


@pytest.mark.process
def test_greedy_tokens_equal_generate(bench: Bench) -> None:
    """A prompt across chunk and block edges gives the tokens of ``generate``, cold and from the cache."""
    prompt = words(150)
    for name, cached in (("cold", 0), ("warm", 144)):
        bench.ask(name, prompt)
        assert bench.end(name).cached_tokens == cached
        assert bench.front.tokens[name, 0] == bench.reference.greedy(prompt, 8)
    bench.empty()


@pytest.mark.process
@pytest.mark.parametrize(
    ("prompt", "n", "code"),
    [([], 1, "invalid"), ([VOCAB], 1, "invalid"), (words(39 * 16), 1, "too_long"), (words(4), 9, "invalid")],
)
def test_what_can_never_run_is_refused(bench: Bench, prompt: list[int], n: int, code: str) -> None:
    """An empty prompt, an unknown token, a prompt larger than the pool and too many continuations end with an error."""
    name = f"refused-{len(prompt)}-{n}-{prompt[:1]}"
    bench.ask(name, prompt, n=n)
    assert [bench.end(name, i).code for i in range(n)] == [code] * n


@pytest.mark.process
def test_a_sequence_ends_where_the_pool_does(bench: Bench) -> None:
    """A sequence that outgrows the whole pool ends with ``length`` instead of waiting for ever."""
    bench.ask("large", words(500), max_tokens=2000)
    assert bench.end("large").finish == "length"
    assert len(bench.front.tokens["large", 0]) == (BLOCKS - 1) * 16 - 500
    bench.empty()


@pytest.mark.process
def test_stop_tokens_end_a_sequence_unless_too_early(bench: Bench) -> None:
    """A stop token ends the continuation, and is not chosen before min_tokens."""
    prompt = words(20, 5)
    stop = bench.reference.greedy(prompt, 4)[3]
    bench.ask("stop", prompt, stop_token_ids=pack([stop]))
    assert bench.end("stop").finish == "stop"
    assert bench.front.tokens["stop", 0] == bench.reference.greedy(prompt, 4)
    bench.ask("later", prompt, stop_token_ids=pack([stop]), min_tokens=6)
    bench.end("later")
    assert stop not in bench.front.tokens["later", 0][:6]


@pytest.mark.process
def test_aborts_before_and_after_the_fork(bench: Bench) -> None:
    """Aborting one of three continuations, before or after the fork, ends that one and no other."""
    before = bench.stats().counters["forks"]
    bench.ask("early", words(40, 9), n=3, temperature=1.0, max_tokens=30)
    bench.front.inbox.put(Abort("early", 0, every=False))
    for index in (1, 2):
        assert bench.end("early", index).finish == "length"
    assert bench.stats().counters["forks"] == before + 1
    bench.ask("late", words(40, 11), n=3, temperature=1.0, max_tokens=200)
    wait_for(lambda: len(bench.front.tokens.get(("late", 2), [])) > 2, 30, "the request has forked")
    bench.front.inbox.put(Abort("late", 1, every=False))
    wait_for(lambda: bench.engine.load().running == 2, 30, "one continuation is gone")
    bench.front.inbox.put(Abort("late"))
    bench.empty()


@pytest.mark.process
def test_a_pool_too_small_for_all_preempts_and_stays_right(bench: Bench) -> None:
    """Eight sequences that need twice the pool are preempted and recomputed; the tokens stay those of ``generate``."""
    prompts = {f"small-{i}": words(50 + 5 * i, 7 * i) for i in range(8)}
    for name, prompt in prompts.items():
        bench.ask(name, prompt, max_tokens=70)
    for name, prompt in prompts.items():
        bench.end(name)
        assert bench.front.tokens[name, 0] == bench.reference.greedy(prompt, 70)
    assert bench.engine.load().counters["preemptions"] > 0
    bench.empty()


@pytest.mark.process
def test_one_message_a_step_at_most(bench: Bench) -> None:
    """The engine never sent more messages than it took steps."""
    counters = bench.engine.load().counters
    assert 0 < counters["messages"] <= counters["steps"]
