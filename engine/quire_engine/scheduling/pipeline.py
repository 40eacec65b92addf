"""Pipeline: the steps of a session that are launched and not yet collected, oldest first.

Owns the two ends of a step. At its launch the sequences advance: their tokens are in flight, and one more is coming
where a sequence may go on with a token that the host has not seen. When its completion is seen the tokens are
delivered, and only then do its fill marks, seals, releases and copy acknowledgements become due.

Invariants: steps complete in the order of their launch; no step is launched and no token kept past the lease; what
ends while steps are in flight keeps its blocks until the last of them is complete (``KvSession.finished`` records the
release with the newest step, ``RetireList`` holds it back).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from quire_engine.kv.kv_session import KvSession
from quire_engine.model.runner import Drawn, Launched, Runner
from quire_engine.sequences.step_plan import Work
from quire_kv import QuireError


@dataclass(frozen=True, slots=True)
class Flight:
    """A launched step: its number, its work and what becomes of it."""

    step: int
    work: list[Work]
    launched: Launched


class Pipeline:
    """Steps in flight.

    Args:
        deliver: called with the work and the tokens of each step when it is complete.
        counters: where steps are counted.
    """

    def __init__(
        self,
        kv: KvSession,
        runner: Runner,
        deliver: Callable[[list[Work], list[Drawn]], None],
        counters: dict[str, int],
    ) -> None:
        self._kv, self._runner, self._deliver, self._counters = kv, runner, deliver, counters
        self._flights: deque[Flight] = deque()
        self.depth = runner.depth

    def __len__(self) -> int:
        return len(self._flights)

    def launch(self, work: list[Work], copies: list[tuple[int, int, int]]) -> None:
        """Launch the step whose message has just been exchanged. Raises QuireError past the lease.

        Where a row is held to a grammar the steps before are collected meanwhile, as :meth:`collect` does it.
        """
        self._check_lease()
        launched = self._runner.launch(work, copies)
        for item in work:
            item.sequence.in_flight += item.count
        for sequence in launched.onward:
            sequence.coming += 1
        self._flights.append(Flight(self._kv.step, work, launched))
        if launched.masked:
            self.collect(1)  # its masks depend on the tokens of the steps before
            self._runner.draw(launched)

    def collect(self, leave: int) -> None:
        """Collect steps, waiting for each, until at most ``leave`` are in flight.

        Raises QuireError past the lease, ContextPoisoned if the device failed; the step's tokens are dropped then.
        """
        while len(self._flights) > leave:
            flight = self._flights.popleft()
            drawn = flight.launched.read()
            self._check_lease()
            for item in flight.work:
                item.sequence.in_flight -= item.count
            for sequence in flight.launched.onward:
                sequence.coming -= 1
            self._counters["steps"] += 1
            self._counters["replayed_steps"] += flight.launched.replayed
            self._deliver(flight.work, drawn)
            self._kv.completed(flight.step)

    def _check_lease(self) -> None:
        client = self._kv.client
        if not client.lease_valid():
            raise client.lost_reason or QuireError("the lease passed during a step")
