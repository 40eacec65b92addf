"""An engine that is to end: it does when nothing is left here, or when its time is over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from quire_proto.client.client import KVReader
from quire_proto.gateway_link import Drain
from tests.engine.handoff.movers import Movers, movers
from tests.support.engine_loop import running_engine, words
from tests.support.waits import wait_for

pytestmark = pytest.mark.process


def names(it: Movers) -> set[str]:
    with KVReader(it.run_dir) as reader:
        return {session.name for session in reader.stats().sessions}


def test_it_ends_when_all_is_adopted(tmp_path: Path) -> None:
    """Not before the gateway knows, and not before the other engine has adopted what was offered; then at once."""
    with movers(tmp_path) as it:
        it.sides[0].connected = True
        for number in range(4):
            it.ask(f"r{number}", words(40, number), max_tokens=300)
        wait_for(lambda: all(it.told(f"r{number}", 0).tokens for number in range(4)), "all have begun", 30)
        it.change = lambda message: held.append(message)
        held: list[object] = []
        it.engines[0].leave(60)
        wait_for(lambda: it.engines[0].load().leaving, "it says so", 5)
        it.move(0, *((f"r{number}", 0) for number in range(4)))
        wait_for(lambda: len(held) == 4, "all are offered", 30)
        it.sides[0].inbox.put(Drain())
        wait_for(lambda: it.engines[0]._draining, "it is told", 5)
        assert "one" in names(it)
        it.change = None
        for message in held:
            it.sides[1].inbox.put(message)
        wait_for(lambda: "one" not in names(it), "it has ended", 4)
        assert [len(it.result(f"r{number}")[0].tokens) for number in range(4)] == [300] * 4
        assert it.count("recomputed_handoff_tokens") == 0
        it.empty()


def test_it_ends_when_its_time_is_over(tmp_path: Path) -> None:
    """What is unfinished is given back, and how much of it was computed is told."""
    with running_engine(tmp_path) as bench:
        bench.ask("long", words(40), max_tokens=3000)
        wait_for(lambda: bench.front.tokens.get(("long", 0)), "it has begun", 30)
        began = time.monotonic()
        bench.engine.leave(0.3)
        end = bench.end("long")
        assert (end.finish, end.offer) == ("abort", b"")
        assert end.computed == 40 + len(bench.front.tokens["long", 0]) - 1
        assert time.monotonic() - began > 0.2


def test_without_work_or_gateway_it_ends_at_once(tmp_path: Path) -> None:
    """Nobody can have anything to send it."""
    with running_engine(tmp_path) as bench:
        bench.engine.leave(60)
        wait_for(lambda: not bench.stats().sessions, "it has ended", 10)
