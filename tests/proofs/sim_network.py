"""Network: frames between clients and the kvstore that are lost, doubled, late, and overtake each other.

ZeroMQ does most of that only when connections break; here it happens all the time. How often, changes with the
weather. A frame is never damaged: the transport sees to that.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.proofs.sim import Action, Sim

MOMENT_MS = 2


@dataclass(frozen=True, slots=True)
class Weather:
    """Probabilities of a frame, and the longest delay (ms) of a late one."""

    lost: float
    doubled: float
    late: float
    longest: int


CALM = Weather(0.0, 0.0, 0.02, 6)
FAIR = Weather(0.01, 0.02, 0.10, 15)
STORM = Weather(0.10, 0.10, 0.30, 90)


class Network:
    """Carries frames."""

    def __init__(self, sim: Sim) -> None:
        self._sim = sim
        self.weather = FAIR
        self.cut: str | None = None
        self._change()

    def carry(self, client: str, arrive: Action, frame: bytes) -> None:
        """Bring a frame to or from a client: ``arrive`` may happen never, once or twice."""
        sim, weather = self._sim, self.weather if self._sim.faulty else CALM
        if sim.chance(weather.lost) or (self.cut == client and sim.faulty):
            return
        for _ in range(2 if sim.chance(weather.doubled) else 1):
            longest = weather.longest if sim.random.random() < weather.late else MOMENT_MS
            sim.at(sim.random.randint(0, longest), arrive, frame)

    def _change(self) -> None:
        """The weather changes now and then; at times one client is cut off."""
        sim = self._sim
        self.weather = sim.random.choice((CALM, FAIR, FAIR, STORM))
        self.cut = sim.random.choice(("c0", "c1", "c2", "c3")) if sim.chance(0.3) else None
        sim.at(sim.random.randint(30, 300), self._change)
