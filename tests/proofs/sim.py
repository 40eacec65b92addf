"""Sim: virtual time, one source of chance, and processes that are killed and stopped at named points.

Everything that happens is an event: an action at a time. Of events at the same millisecond chance decides which goes
first. One seed therefore gives one run, whatever machine it runs on; ``trace`` is a digest of it.

A *failpoint* is a place in a process with a name. Passing it, the process may be killed on the spot: what it did before
is done, what it would do next is not.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

Action = Callable[..., None]


class Killed(BaseException):
    """A process ends here, at the failpoint that it names. As with SIGKILL, nothing on the way catches it."""


class Sim:
    """The events of one seed.

    Attributes:
        now: virtual time, ms.
        steps: events that happened, ticks of idle loops not counted.
        faulty: whether processes still fail; the end of a run lets everything settle.
        passed, killed: by failpoint, how often it was passed and how often that was the end.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = self.steps = 0
        self.faulty = True
        self.passed: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self._trace = hashlib.blake2b(digest_size=8)
        self._order = count()
        self._events: list[tuple[int, float, int, Action, tuple[Any, ...]]] = []

    @property
    def trace(self) -> str:
        """A digest of all that was noted: equal for equal runs."""
        return self._trace.hexdigest()

    def note(self, *what: object) -> None:
        """A step: something happened that two runs of a seed must have in common."""
        self.steps += 1
        self._trace.update(repr((self.now, *what)).encode())

    def at(self, delay: int, action: Action, *arguments: Any) -> None:
        """Let ``action`` happen ``delay`` ms from now."""
        event = (self.now + delay, self.random.random(), next(self._order), action, arguments)
        heapq.heappush(self._events, event)

    def chance(self, probability: float) -> bool:
        """True with this probability, while things fail at all."""
        return self.faulty and self.random.random() < probability

    def failpoint(self, name: str, probability: float) -> None:
        """Pass a named point; raises Killed with this probability."""
        self.passed[name] += 1
        if self.chance(probability):
            self.killed[name] += 1
            raise Killed(name)

    def next(self) -> None:
        """The next event happens."""
        self.now, _, _, action, arguments = heapq.heappop(self._events)
        action(*arguments)


class Process:
    """Something that runs, may be stopped for a while, and dies. Its events die with it, and wait while it is stopped.

    Attributes:
        life: how many times it was started.
    """

    def __init__(self, sim: Sim, name: str) -> None:
        self.sim, self.name = sim, name
        self.life = 0
        self.alive = self.stopped = False
        self._held: list[tuple[Action, tuple[Any, ...]]] = []

    def start(self) -> None:
        """A new life."""
        self.life += 1
        self.alive, self.stopped = True, False
        self._held = []
        self._do(self.begin, ())

    def later(self, delay: int, action: Action, *arguments: Any) -> None:
        """Let this life do something ``delay`` ms from now."""
        self.sim.at(delay, self._if_alive, self.life, action, arguments)

    def stop(self, duration: int) -> None:
        """SIGSTOP, and SIGCONT after ``duration`` ms."""
        if self.alive and not self.stopped:
            self.stopped = True
            self.sim.at(duration, self._go_on, self.life)

    def die(self, where: str) -> None:
        """SIGKILL."""
        if self.alive:
            self.sim.note("dies", self.name, where)
            self.alive = self.stopped = False
            self.ended()

    def begin(self) -> None:
        """What a new life does first."""
        raise NotImplementedError

    def ended(self) -> None:
        """What the rest of the machine does when this process is gone."""
        raise NotImplementedError

    def _if_alive(self, life: int, action: Action, arguments: tuple[Any, ...]) -> None:
        if life == self.life and self.alive:
            if self.stopped:
                self._held.append((action, arguments))
            else:
                self._do(action, arguments)

    def _go_on(self, life: int) -> None:
        if life == self.life and self.alive:
            self.stopped = False
            held, self._held = self._held, []
            for action, arguments in held:
                self.later(0, action, *arguments)

    def _do(self, action: Action, arguments: tuple[Any, ...]) -> None:
        try:
            action(*arguments)
        except Killed as killed:
            self.die(str(killed))
