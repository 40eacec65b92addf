"""Two engines over one kvstore process: one computes only as many steps as a test lets it, the other is free.

So the first owns what it was asked first, for as long as a test wants, and the second has to wait for it.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.engine import Engine
from quire_engine.kv.attach import arena_of
from quire_engine.model.model import Model
from quire_engine.model.runner import Launched, Runner
from quire_engine.sequences.step_plan import Work
from quire_proto.client.client import KVClient, KVReader
from quire_proto.gateway_link import Abort
from quire_proto.messages import Stats
from quire_proto.wire.u32 import pack_u32
from tests.engine.scheduling.slow_device import WorkerQueue
from tests.support.children import python_child
from tests.support.engine_loop import BLOCKS, Queues, engine_on, kvstore
from tests.support.reference import Reference
from tests.support.waits import wait_for


class Gate:
    """Lets steps begin: as many as allowed, or all once it is open."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left = 0
        self._open = False

    def allow(self, steps: int) -> None:
        """Let so many more steps begin."""
        with self._changed:
            self._left += steps
            self._changed.notify_all()

    def open(self) -> None:
        """Let everything go on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def shut(self) -> None:
        """Let nothing begin but what was allowed."""
        with self._changed:
            self._open = False

    def wait(self) -> None:
        """Return when a step may begin."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._open or self._left, 60), "the gate is not opened"
            self._left -= not self._open

    def runner(self, model: Model, client: KVClient) -> Runner:
        """A runner on the CPU whose launches wait at the gate."""
        gate = self

        class Gated(Runner):
            def launch(self, work: list[Work], copies: list[tuple[int, int, int]]) -> Launched:
                gate.wait()
                return super().launch(work, copies)

        return Gated(model, CpuAttention(arena_of(client)))


def late(model: Model, client: KVClient) -> Runner:
    """A runner with two steps in flight."""
    return Runner(model, CpuAttention(arena_of(client)), WorkerQueue(0.002))


class Pair:
    """The kvstore, the gated ``owner`` and the free ``other``; each engine's queue stands for its gateway."""

    def __init__(self, run_dir: Path, gate: Gate, engines: list[tuple[Engine, Queues]], reference: Reference) -> None:
        self.run_dir, self.gate, self.reference = run_dir, gate, reference
        (self.owner_engine, self.owner), (self.other_engine, self.other) = engines

    def stats(self) -> Stats:
        with KVReader(self.run_dir) as reader:
            return reader.stats()

    def count(self, name: str) -> int:
        """A counter of the kvstore."""
        return self.stats().counters[name]

    def wait_for_count(self, name: str, value: int) -> None:
        """Wait until a counter of the kvstore has risen to ``value``."""
        wait_for(lambda: self.count(name) >= value, f"{name} is {value}", 30)

    def aside(self, number: int) -> None:
        """Wait until so many sequences of the other engine wait for another's work, and the kvstore was told of one."""
        wait_for(lambda: len(self.other_engine._scheduler.aside) == number, f"{number} wait", 30)
        wait_for(lambda: self.stats().counters["waits"], "the kvstore knows", 30)

    def abort(self, front: Queues, name: str) -> None:
        front.inbox.put(Abort(name))

    def right(self, front: Queues, name: str, prompt: list[int], tokens: int = 8) -> Any:
        """The request ends with the tokens that transformers generates; its last output."""
        end = front.end(name)
        assert front.tokens[name, 0] == self.reference.greedy(prompt, tokens)
        return end

    def empty(self) -> None:
        """Everything came back and the pool adds up."""
        wait_for(lambda: self.stats().blocks["held"] == 0, "all blocks came back", 30)
        blocks = self.stats().blocks
        assert blocks["free"] + blocks["cached"] == blocks["total"]


@contextmanager
def pair(tmp: Path, blocks: int = BLOCKS, deep: bool = False, slots: int = 8, other_slots: int = 8) -> Iterator[Pair]:
    """Start them. ``deep``: the other engine has two steps in flight. ``slots``, ``other_slots``: of their batches."""
    gate = Gate()
    with kvstore(tmp, blocks) as (run_dir, model_dir):
        owner = engine_on(run_dir, model_dir, gate.runner, name="owner", slots=slots)
        options: dict[str, Any] = {"make_runner": late} if deep else {}
        other = engine_on(run_dir, model_dir, name="other", slots=other_slots, prefill=False, **options)
        with owner as first, other as second:
            try:
                yield Pair(run_dir, gate, [first, second], Reference(model_dir))
            finally:
                gate.open()


CLAIMANT = """
import sys, time
from pathlib import Path
from quire_proto.client.client import KVClient
with KVClient(Path(sys.argv[1]), name="claimant") as client:
    tokens = bytes.fromhex(sys.argv[2])
    chain = client.chain("tenant", tokens)
    client.allocate(1, "tenant", len(tokens) // 4, chain.digests())
    print("claimed", flush=True)
    time.sleep(600)
"""


def claimant(run_dir: Path, prompt: list[int]) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process that owns the blocks of a prompt and computes nothing."""
    return python_child(CLAIMANT, str(run_dir), pack_u32(prompt).hex(), says="claimed")
