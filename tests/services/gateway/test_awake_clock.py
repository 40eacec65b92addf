"""The awake clock stands still while the loop does, and otherwise is the clock on the wall."""

from __future__ import annotations

import pytest

from quire_services.gateway import awake_clock as awake
from quire_services.gateway.awake_clock import STALL_S, TICK_S, AwakeClock


class Wall:
    """Time as a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    it = Wall()
    monkeypatch.setattr(awake, "time", it)
    return it


def test_a_stall_does_not_count(wall: Wall) -> None:
    """An hour between two ticks is two ticks; before, between and after them time goes on as ever."""
    clock = AwakeClock()
    clock._ticked = wall.now
    before = clock.now()
    wall.now += 3600
    assert clock.now() - before == pytest.approx(2 * TICK_S)
    clock._tick(wall.now)
    assert clock.now() - before == pytest.approx(2 * TICK_S)
    wall.now += TICK_S
    clock._tick(wall.now)
    assert clock.now() - before == pytest.approx(3 * TICK_S)


def test_it_never_goes_back(wall: Wall) -> None:
    """Late ticks, early ones and looks in between give times in order."""
    clock = AwakeClock()
    clock._ticked = wall.now
    seen = [clock.now()]
    for step in (0.1, 0.9, STALL_S * 3, 0.2, TICK_S, 7.0, 0.01):
        wall.now += step
        seen.append(clock.now())
        clock._tick(wall.now)
        seen.append(clock.now())
    assert seen == sorted(seen)


def test_without_ticks_it_is_the_wall(wall: Wall) -> None:
    """Code that runs no loop has a common clock."""
    clock = AwakeClock()
    before = clock.now()
    wall.now += 50
    assert clock.now() - before == 50
