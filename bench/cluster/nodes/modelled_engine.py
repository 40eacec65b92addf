"""ModelledEngine: when prompts are computed and answers are complete, by a service model, without a single step.

Between two events the mix of a step is the same, so steps pass at a constant rate: it is enough to know how many have
passed. Prompts are computed one after the other, in chunks, beside the sequences that decode, as the scheduler does it.

Invariant: of ``advance(t)`` only the last ``t`` matters; time never goes back.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from typing import Generic, TypeVar

from .service_model import ServiceModel

Job = TypeVar("Job")
NEVER = float("inf")
CLOSE = 1e-7  # of a step or of a token: what adding up rates may be wrong by


@dataclass(slots=True)
class _Prompt(Generic[Job]):
    job: Job
    left: float


@dataclass(slots=True, order=True)
class _Row(Generic[Job]):
    last_step: float
    order: int
    job: Job = field(compare=False)


class ModelledEngine(Generic[Job]):
    """One engine.

    Attributes:
        busy_s: how long it has been computing.
    """

    def __init__(self, model: ServiceModel) -> None:
        self._model = model
        self._prompts: deque[_Prompt[Job]] = deque()
        self._rows: list[_Row[Job]] = []
        self._order = count()
        self._steps = 0.0
        self._at = 0.0
        self.busy_s = 0.0

    def __len__(self) -> int:
        """Sequences that are in it."""
        return len(self._prompts) + len(self._rows)

    def compute(self, job: Job, tokens: int) -> None:
        """Compute so many tokens of a prompt, after those that are there."""
        self._prompts.append(_Prompt(job, float(tokens)))

    def decode(self, job: Job, tokens: int) -> None:
        """Generate so many tokens, one a step."""
        heapq.heappush(self._rows, _Row(self._steps + tokens, next(self._order), job))

    def prompts(self) -> list[Job]:
        """Those whose prompt is not complete."""
        return [prompt.job for prompt in self._prompts]

    def lacks(self) -> list[tuple[Job, int]]:
        """Sequences that decode, and tokens that each has not generated yet."""
        return [(row.job, max(0, ceil(row.last_step - self._steps - CLOSE))) for row in sorted(self._rows)]

    def advance(self, now: float) -> None:
        """Time passes."""
        passed, self._at = now - self._at, now
        if passed <= 0 or not len(self):
            return
        self.busy_s += passed
        steps = passed / self._step_s()
        self._steps += steps
        if self._prompts:
            self._prompts[0].left -= steps * self._model.chunk_tokens

    def due(self) -> float:
        """When the next prompt or answer is complete, if nothing else comes."""
        if not len(self):
            return NEVER
        steps = NEVER
        if self._prompts:
            steps = self._prompts[0].left / self._model.chunk_tokens
        if self._rows:
            steps = min(steps, self._rows[0].last_step - self._steps)
        return self._at + max(0.0, steps) * self._step_s()

    def computed(self) -> Job | None:
        """A prompt that is complete, taken out; None if none is."""
        if self._prompts and self._prompts[0].left <= CLOSE:
            return self._prompts.popleft().job
        return None

    def answered(self) -> Job | None:
        """A sequence that has all its tokens, taken out; None if none has."""
        if self._rows and self._rows[0].last_step - self._steps <= CLOSE:
            return heapq.heappop(self._rows).job
        return None

    def _step_s(self) -> float:
        return self._model.step_s(len(self._rows), bool(self._prompts))
