"""Waiting for an engine that is expected back: whether that makes sense, and how it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from quire_services.gateway.turns import hold
from quire_services.gateway.turns.hold import EXPECTED_S, Hold


@dataclass
class Clock:
    at: float = 100.0

    def now(self) -> float:
        return self.at


def test_an_engine_is_expected_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the start and after the last, and not for ever; never where nothing is to wait."""
    clock = Clock()
    monkeypatch.setattr(hold, "clock", clock)
    holds, none = Hold(5), Hold(0)
    clock.at += EXPECTED_S - 1
    assert (holds.expects(), none.expects()) == (True, False)
    clock.at += 2
    assert not holds.expects()
    for one in (holds, none):
        one.seen()
    clock.at += EXPECTED_S - 1
    assert (holds.expects(), none.expects()) == (True, False)
    clock.at += 2
    assert not holds.expects()
    holds.seen()
    assert holds.expects()


def test_waiting_ends_with_what_is_waited_for_with_time_or_with_the_client() -> None:
    """Those that wait are counted by tenant, as long as they wait; a change that is none lets nobody go."""

    async def scene() -> None:
        holds, back = Hold(0.5), [False]
        waits = [asyncio.ensure_future(holds.wait(tenant, lambda: back[0])) for tenant in ("a", "a", "b")]
        await asyncio.sleep(0)
        assert holds.waiting == {"a": 2, "b": 1}
        holds.changed()
        await asyncio.sleep(0.01)
        assert not any(wait.done() for wait in waits)
        waits[0].cancel()
        await asyncio.sleep(0.01)
        assert holds.waiting == {"a": 1, "b": 1}
        back[0] = True
        holds.seen()
        await asyncio.wait_for(asyncio.gather(*waits[1:]), 5)
        assert not holds.waiting
        await asyncio.wait_for(holds.wait("a", lambda: False), 5)
        assert not holds.waiting

    asyncio.run(scene())
