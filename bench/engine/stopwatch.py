"""Where a step's time goes: methods of a running engine are wrapped with clocks, its code stays as it is.

Clocks are named; a step's sum of each is kept. Wrapped calls may lie inside each other (a forward pass holds its
attention): the reader of the figures subtracts. With one torch thread the clock is that thread's CPU time, which other
processes on the machine do not disturb; with more it is wall time.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch


class Stopwatch:
    """Clocks of one engine.

    Attributes:
        steps: one map of clock to seconds for each step, with its numbers of rows.
    """

    def __init__(self) -> None:
        self.clock = thread_clock()
        self.steps: list[dict[str, float]] = []
        self._now: defaultdict[str, float] = defaultdict(float)
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: Any, method: str, clock: str, wall: bool = False) -> None:
        """Time every call of ``owner.method``; ``wall``: by the wall clock in any case, as for a call that waits."""
        inner: Callable[..., Any] = getattr(owner, method)
        read = time.perf_counter if wall else self.clock

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = read()
            try:
                return inner(*args, **kwargs)
            finally:
                self._now[clock] += read() - began

        setattr(owner, method, timed)
        self._undo.append(lambda: setattr(owner, method, inner))

    def replace(self, owner: Any, method: str, other: Callable[..., Any]) -> None:
        """Have ``owner.method`` do something else."""
        inner = getattr(owner, method)
        setattr(owner, method, other)
        self._undo.append(lambda: setattr(owner, method, inner))

    def restore(self) -> None:
        """Take all clocks off again."""
        while self._undo:
            self._undo.pop()()

    def count(self, name: str, value: float) -> None:
        """Note a number with the present step."""
        self._now[name] += value

    def wrap_modules(self, root: torch.nn.Module, kind: tuple[type[torch.nn.Module], ...], clock: str) -> None:
        """Time every call of the modules of these kinds; those inside another of them count with it."""
        began: dict[int, float] = {}

        def before(module: torch.nn.Module, _: Any) -> None:
            began[id(module)] = self.clock()

        def after(module: torch.nn.Module, _: Any, __: Any) -> None:
            self._now[clock] += self.clock() - began[id(module)]

        found = [module for module in root.modules() if isinstance(module, kind)]
        inside = {id(part) for module in found for part in module.modules() if part is not module}
        for module in found:
            if id(module) not in inside:
                self._undo.append(module.register_forward_pre_hook(before).remove)
                self._undo.append(module.register_forward_hook(after).remove)

    def wrap_step(self, owner: Any, method: str) -> None:
        """Time a whole step and keep its clocks, if it computed anything."""
        inner = getattr(owner, method)

        def step(*args: Any, **kwargs: Any) -> Any:
            self._now.clear()
            began, wall = self.clock(), time.perf_counter()
            result = inner(*args, **kwargs)
            self._now["step"] = self.clock() - began
            self._now["wall"] = time.perf_counter() - wall
            if self._now.get("rows"):
                self.steps.append(dict(self._now))
            return result

        setattr(owner, method, step)


def thread_clock() -> Callable[[], float]:
    """CPU time of this thread if torch computes on it alone, else wall time; both in seconds."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
