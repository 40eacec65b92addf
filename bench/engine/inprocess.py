"""The engine's own loop in this process, with a real model and a real kvstore, fed by a script instead of a gateway.

Nothing of the engine is replaced but its front: requests come from a list with arrival times, and outputs are noted
with the time at which they came. So what is measured is the engine, without HTTP, sockets to a gateway and clients.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import structlog

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.checkpoint.layout import layout_of
from quire_engine.engine import Engine
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.kv.attach import arena_of
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_engine.scheduling.front import Front
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_engine.scheduling.step_log import StepLog
from quire_kv import KVClient, Layout
from quire_proto.gateway_link import Generate, Outputs


@dataclass(slots=True)
class TokenTimes:
    """One request: when it was due (seconds from the start), and when its tokens came."""

    due: float
    tokens: list[float] = field(default_factory=list)
    text: array[int] = field(default_factory=lambda: array("I"))
    finish: str = ""


class Script:
    """A front that plays requests and stops the engine when all have ended.

    Args:
        arrivals: (seconds from the start, request).
        batch: 0 hands requests over as they arrive; otherwise up to so many at a time, the next ones only when all
            of a batch have ended (static batching).
    """

    def __init__(self, arrivals: Iterable[tuple[float, Generate]], batch: int = 0) -> None:
        self._coming = sorted(arrivals, key=lambda entry: entry[0])
        self._batch = batch
        self._running = 0
        self._began = 0.0
        self.seen = {message.request: TokenTimes(due) for due, message in self._coming}
        self.stop: Callable[[], None] = lambda: None

    @property
    def now(self) -> float:
        """Seconds since the first call of :meth:`receive`."""
        self._began = self._began or time.perf_counter()
        return time.perf_counter() - self._began

    def receive(self, timeout_s: float) -> list[Generate]:
        """Requests that are due; waits up to ``timeout_s`` for the first."""
        wait = min(timeout_s, self._coming[0][0] - self.now) if self._coming else timeout_s
        if wait > 0:
            time.sleep(wait)
        if self._batch and self._running:
            return []
        count = sum(1 for due, _ in self._coming if due <= self.now)
        count = min(count, self._batch) if self._batch else count
        due, self._coming = self._coming[:count], self._coming[count:]
        self._running += count
        return [message for _, message in due]

    def send(self, outputs: Outputs) -> None:
        """Note a step's outputs."""
        now = self.now
        for item in outputs.items:
            seen = self.seen[item.request]
            if item.tokens:
                seen.tokens.append(now)
                seen.text.frombytes(item.tokens)
            if item.finish:
                seen.finish = item.finish
                self._running -= 1
        if not self._running and not self._coming:
            self.stop()

    def report(self) -> None:
        """No gateway asks for the load."""

    def wake(self) -> None:
        """``receive`` never waits longer than it was told."""


def quiet() -> None:
    """The engine's log goes to stderr from warnings on: stdout is for figures."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def layout_of_model(directory: Path, block_size: int) -> Layout:
    """The layout of a bench model in fp32."""
    return layout_of(directory, "float32", block_size)


def make_engine(
    model: Model,
    run_dir: Path,
    limits: SchedulerLimits,
    layout: Layout,
    script: Script,
    step_log: StepLog | Path | None = None,
    compiler: GrammarCompiler | None = None,
    runner: type[Runner] = Runner,
) -> Engine:
    """An engine over the kvstore in ``run_dir`` that plays ``script``; ``run()`` returns when it has ended.

    ``step_log``: where each step leaves a line, or what is told of each. ``runner``: what runs them.
    """
    quiet()
    engine = Engine(
        attach=lambda: KVClient(run_dir, name=f"bench-{os.getpid()}", layout=layout, timeout=30.0, resend=10.0),
        make_runner=lambda client: runner(model, CpuAttention(arena_of(client))),
        limits=limits,
        max_model_len=model.max_model_len,
        vocab_size=model.vocab_size,
        eos_ids=model.eos_ids,
        step_log=step_log if isinstance(step_log, StepLog) else StepLog(step_log),
        compiler=compiler,
    )
    engine.front = cast(Front, script)
    script.stop = engine.stop
    return engine
