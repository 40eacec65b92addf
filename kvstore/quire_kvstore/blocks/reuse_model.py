"""ReuseModel: how soon blocks like this one are used again. Statistics only; knows no block and no cache.

Blocks are told apart by four things known when they are released, each cut into a few steps:

    reused   how often the block was used again so far
    tail     whether it ended its table (a last block is often incomplete: the next turn of a talk replaces it)
    gap      how long it had waited when it was last used again
    output   how many tokens the request generated: a tool call is answered sooner than a long text

A *class* is one combination. A block's *wait* begins at its release and ends with its next use; evicted blocks are
followed too, or the model would see only what its own choices left. The hazard of a class in one step of age is the
share of waits that end there among those that reached it. Waits that go on count for each step they have survived.

Classes with little data lean on their parent: the hazard of all blocks, then of one reuse step, then of reuse and
tail, and so on, each counting as ``PRIOR`` requests' worth of evidence. The score of a block is its best *density*:
over all horizons, the expected hits up to the horizon per expected second of residence (the index of a stopping
problem, and the hit density of the caching literature). Evicting the lowest density loses the fewest hits per second
of space.

Waits are counted in groups: all blocks of one class released together. A group moves from step to step of age at
constant cost, whatever its size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REUSE_EDGES = (1, 2, 3, 6, 20)
GAP_EDGES_S = (0.0, 30.0, 120.0)  # below the first: never used again so far
OUTPUT_EDGES = (30, 300)
SHAPE = (len(REUSE_EDGES) + 1, 2, len(GAP_EDGES_S) + 1, len(OUTPUT_EDGES) + 1)
CLASSES = SHAPE[0] * SHAPE[1] * SHAPE[2] * SHAPE[3]

STEPS = 40
FIRST_STEP_S, STEP_RATIO = 0.5, 1.4  # forty steps from half a second to three days
PRIOR = 8.0  # requests
FIRST_HAZARD = 0.01  # per step of age, of a class nothing is known of: as in LRU, the older the less likely
REFRESH = 100  # released tables between two computations of the scores
DECAY = 0.99  # of all counts at each of them


class ReuseModel:
    """Waits by class and age, and the score of each (class, step of age).

    Attributes:
        edges: lower edge of each step of age, in seconds.
        scores: a row a class, a column a step of age; higher means more worth keeping.
    """

    def __init__(self) -> None:
        self.edges = [0.0, *(FIRST_STEP_S * STEP_RATIO**step for step in range(STEPS - 1))]
        self._upper = np.array([*self.edges[1:], self.edges[-1] * STEP_RATIO])
        self._ended = np.zeros((CLASSES, STEPS))
        self._survived = np.zeros((CLASSES, STEPS))
        self._seen = np.zeros(CLASSES, np.bool_)
        # Groups: size, time and class of each number in use; numbers of empty groups are used again.
        self._left = np.zeros(1024, np.int64)
        self._began: list[float] = [0.0] * 1024
        self._class: list[int] = [0] * 1024
        self._spare = list(range(1023, -1, -1))
        self._queues: list[deque[int]] = [deque() for _ in range(STEPS)]
        self._blocks = self._groups = 1
        self._tables = 0
        self.scores: list[list[float]] = []
        self._refresh()

    def step(self, age: float) -> int:
        """The step of age in which ``age`` seconds lie."""
        return bisect_right(self.edges, age) - 1

    def begin(self, classes: NDArray[np.int64], now: float) -> NDArray[np.int64]:
        """Start the waits of the blocks of one released table; returns the group of each."""
        self._age(now)
        self._tables += 1
        sizes = np.bincount(classes, minlength=CLASSES)
        names = np.flatnonzero(sizes)
        numbers = np.zeros(CLASSES, np.int64)
        for name, size in zip(names.tolist(), sizes[names].tolist(), strict=True):
            numbers[name] = self._group(name, size, now)
        fresh = not bool(self._seen[names].all())
        self._seen[names] = True
        if fresh or self._tables % REFRESH == 0:
            self._refresh()
        of_each: NDArray[np.int64] = numbers[classes]
        return of_each

    def end(self, groups: NDArray[np.int64], classes: NDArray[np.int64], ages: Array) -> None:
        """Waits ended with a use, at these ages."""
        steps = np.searchsorted(self.edges, ages, side="right") - 1
        np.add.at(self._ended, (classes, steps), 1.0)
        np.subtract.at(self._left, groups, 1)

    def lose(self, group: int) -> None:
        """A wait is followed no longer."""
        self._left[group] -= 1

    def _group(self, name: int, size: int, now: float) -> int:
        if not self._spare:
            have = len(self._began)
            self._left = np.concatenate((self._left, np.zeros(have, np.int64)))
            self._began += [0.0] * have
            self._class += [0] * have
            self._spare = list(range(2 * have - 1, have - 1, -1))
        number = self._spare.pop()
        self._left[number], self._began[number], self._class[number] = size, now, name
        self._queues[0].append(number)
        self._blocks += size
        self._groups += 1
        return number

    def _age(self, now: float) -> None:
        """Move groups that are past a step's upper edge to the next; their waits survived that step."""
        for step in range(STEPS - 1):
            queue, edge = self._queues[step], self.edges[step + 1]
            while queue and now - self._began[queue[0]] >= edge:
                number = queue.popleft()
                left = int(self._left[number])
                if left:
                    self._survived[self._class[number], step] += left
                    self._queues[step + 1].append(number)
                else:
                    self._spare.append(number)

    def _refresh(self) -> None:
        """Compute the scores anew, forget a little of the past, and give numbers of empty groups back."""
        self.scores = density(self._hazard(), self._upper - np.array(self.edges)).tolist()
        self._ended *= DECAY
        self._survived *= DECAY
        if len(self._spare) * 2 < len(self._began):
            for step, queue in enumerate(self._queues):
                self._spare += [number for number in queue if not self._left[number]]
                self._queues[step] = deque(number for number in queue if self._left[number])

    def _hazard(self) -> Array:
        """Share of waits that end in each step of age, by class, each class leaning on its parent."""
        prior = PRIOR * self._blocks / self._groups
        ended, reached = (a.reshape(*SHAPE, STEPS) for a in (self._ended, self._ended + self._survived))
        hazard: Array = np.full((1, 1, 1, 1, STEPS), FIRST_HAZARD)
        for level in range(len(SHAPE) + 1):
            rest = tuple(range(level, len(SHAPE)))
            hits, waits = ended.sum(axis=rest, keepdims=True), reached.sum(axis=rest, keepdims=True)
            hazard = (hits + prior * hazard) / (waits + prior)
        return hazard.reshape(CLASSES, STEPS)


def density(hazard: Array, widths: Array) -> Array:
    """The best hits per second over all horizons, for each class (row) that has reached each step (column)."""
    alive, hits, seconds = np.ones_like(hazard), np.zeros_like(hazard), np.zeros_like(hazard)
    best = np.zeros_like(hazard)
    steps = hazard.shape[1]
    stay = widths * (1 - hazard / 2)
    for ahead in range(steps):
        width = steps - ahead  # columns from which a horizon so many steps ahead exists
        now, then = slice(0, width), slice(ahead, steps)
        hits[:, now] += alive[:, now] * hazard[:, then]
        seconds[:, now] += alive[:, now] * stay[:, then]
        alive[:, now] *= 1 - hazard[:, then]
        best[:, now] = np.maximum(best[:, now], hits[:, now] / seconds[:, now])
    return best
