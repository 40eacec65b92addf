"""A device that works beside the host: a thread that computes later, and a client that watches what is said meanwhile.

``WorkerQueue`` is a real queue: what is submitted is computed on its thread, in order, and ends a little late, as on a
GPU whose launches return at once. ``Watch`` knows what is in flight and notes every word to the kvstore that comes
too early: a release, swap or copy acknowledgement of blocks that unfinished work names, or a fill mark above what is
written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.kv.attach import arena_of
from quire_engine.model.model import Model
from quire_engine.model.runner import Launched, Runner
from quire_engine.sequences.step_plan import Work
from quire_proto.client.client import KVClient
from quire_proto.messages import Step, Stepped
from quire_proto.wire.u32 import unpack_rows, unpack_u32
from tests.support.engine_loop import Bench, running_engine

R = TypeVar("R")


class WorkerQueue:
    """A queue on a thread of its own; every piece of work ends ``late_s`` after it could have."""

    depth = 2

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self._thread = ThreadPoolExecutor(1)

    def submit(self, work: Callable[[], R]) -> Future[R]:
        """Queue ``work``; its future is the completion."""

        def later() -> R:
            time.sleep(self._late_s)
            return work()

        return self._thread.submit(later)

    def close(self) -> None:
        """Wait for everything."""
        self._thread.shutdown()


@dataclass
class Named:
    """What a launched step names: by sequence the first position it writes and its table; copies (src, dst)."""

    done: Future[None]
    sequences: dict[int, tuple[int, list[int]]]
    copies: list[tuple[int, int]]


@dataclass
class Watch:
    """Steps in flight and what was said too early."""

    launched: list[Named] = field(default_factory=list)
    copies: dict[int, tuple[int, int]] = field(default_factory=dict)
    too_early: list[str] = field(default_factory=list)
    most: int = 0
    said: dict[str, int] = field(default_factory=dict)

    def unfinished(self) -> list[Named]:
        """Steps whose work has not ended."""
        self.launched = [named for named in self.launched if not named.done.done()]
        self.most = max(self.most, len(self.launched))
        return self.launched

    def look_at(self, step: Step) -> None:
        """Note what of this message comes too early."""
        flying = self.unfinished()
        for named in flying:
            for sequence in unpack_u32(step.releases):
                if sequence in named.sequences:
                    self.too_early.append(f"release of {sequence}")
            for sequence, index, block in unpack_rows(step.swaps, 3):
                table = named.sequences.get(sequence, (0, []))[1]
                if index < len(table) and table[index] != block:
                    self.too_early.append(f"swap of {sequence}")
            for copy_id in unpack_u32(step.copies_done):
                if self.copies[copy_id] in named.copies:
                    self.too_early.append(f"copy {copy_id}")
            marks = [(row[0], row[2]) for row in unpack_rows(step.completed, 3)]
            for sequence, tokens in (*unpack_rows(step.fills, 2), *marks):
                if tokens > named.sequences.get(sequence, (tokens, []))[0]:
                    self.too_early.append(f"fill of {sequence}")
        for kind, rows in (("releases", 1), ("swaps", 3), ("copies_done", 1), ("fills", 2)):
            self.said[kind] = self.said.get(kind, 0) + len(getattr(step, kind)) // (4 * rows)
        self.said["beside work"] = self.said.get("beside work", 0) + bool(flying)

    def look_back(self, reply: Stepped) -> None:
        """Learn which copies the kvstore asked for."""
        for granted in (reply, *reply.allocates):
            for copy_id, src, dst, _ in unpack_rows(granted.copies, 4):
                self.copies[copy_id] = (src, dst)

    def client(self) -> type[KVClient]:
        """A client whose steps are looked at."""
        watch = self

        class Watched(KVClient):
            def call(self, op: Any, body: object) -> Any:
                if isinstance(body, Step):
                    watch.look_at(body)
                reply = super().call(op, body)
                if isinstance(body, Step):
                    watch.look_back(reply)
                return reply

        return Watched

    def runner(self, model: Model, client: KVClient, queue: WorkerQueue) -> Runner:
        """A runner on that queue whose launches are noted."""
        watch = self

        class Noted(Runner):
            def launch(self, work: list[Work], copies: list[tuple[int, int, int]]) -> Launched:
                names = {i.sequence.id: (i.sequence.launched, i.sequence.table.tolist()) for i in work}
                launched = super().launch(work, copies)
                assert isinstance(launched.pending, Future)
                watch.launched.append(Named(launched.pending, names, [(src, dst) for src, dst, _ in copies]))
                watch.unfinished()
                return launched

        return Noted(model, CpuAttention(arena_of(client)), queue)


@contextmanager
def running_at_depth(depth: int, folder: Path, late_s: float) -> Iterator[tuple[Bench, Watch]]:
    """An engine that sees each token before the next step (1), or one whose device is ahead of it (2) and watched."""
    watch = Watch()
    if depth == 1:
        with running_engine(folder) as started:
            yield started, watch
        return
    with running_engine(folder, lambda m, c: watch.runner(m, c, WorkerQueue(late_s)), watch.client()) as started:
        yield started, watch
