"""The bench of hostile tenants: what it makes of its rounds, and one attack on a real stack."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import asdict

import pytest

from bench.neighbours import hostile
from bench.neighbours.attacks import BODIES, FLOODS, AttackedGateway, answer
from bench.neighbours.victim import Victim


def test_rounds_become_medians_and_the_largest_memory() -> None:
    """Times are medians, memory is the largest and unknown if the gateway was gone once, text is said once."""
    rounds = [
        {"gap_ms": gap, "peak_mib": peak, "memory_mib": None if gap == 9.0 else peak, "answers": "1 x 400"}
        for gap, peak in ((9.0, 100.0), (1.0, 300.0), (2.0, 200.0))
    ]
    found = hostile.attack_summary(rounds)
    assert (found["gap_ms"], found["peak_mib"], found["answers"]) == (2.0, 300.0, "1 x 400")
    assert found["memory_mib"] is None
    assert found["rounds"] == rounds


async def _stands() -> Victim:
    victim = Victim(1, "key", "m")
    loop = asyncio.get_running_loop()
    victim.last = dict.fromkeys(victim.last, time.perf_counter() - 5.0)
    loop.call_later(0.05, lambda: victim.last.update(health=time.perf_counter()))
    await victim.gone_on(0.1)
    return victim


def test_what_still_stands_is_counted_as_far_as_it_has_come() -> None:
    """A stream without an arrival has no gap that ended; its gap so far is the least that it can be."""
    seen = asyncio.run(_stands()).seen
    assert seen.stands == ["stream", "request"]
    assert seen.gap_s > 5.0
    assert seen.first_token_s > 5.0
    assert seen.health_s == 0.0


def test_what_was_refused_can_be_told() -> None:
    """The counts by status go through JSON as they are."""
    victim = Victim(1, "key", "m")
    for status in ("429", "429", "cut"):
        victim.refuse(status)
    assert json.loads(json.dumps(asdict(victim.seen)))["refused"] == {"429": 2, "cut": 1}


def test_there_are_ten_bodies_and_three_floods_and_more() -> None:
    """Each says what it is, and makes its requests without a gateway."""
    assert len(BODIES) >= 10
    assert len(FLOODS) >= 3
    assert all(attack.__doc__ for attack in (*BODIES.values(), *FLOODS.values()))


@pytest.mark.parametrize(("said", "expected"), [(b"HTTP/1.1 413 Content Too Large\r\n\r\n", "413"), (b"", "cut")])
def test_an_answer_is_its_status(said: bytes, expected: str) -> None:
    """An ended connection without one is cut, not an error of the bench."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(said)
        await writer.drain()
        writer.close()

    async def ask() -> str:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            target = AttackedGateway(server.sockets[0].getsockname()[1], "key", "m", 1)
            return await answer(target.port, target.request("/v1/completions", b"{}"))

    assert asyncio.run(ask()) == expected


@pytest.mark.slow
@pytest.mark.process
def test_one_attack_on_a_stack() -> None:
    """The tenant beside it is measured alone and under the attack, the gateway's memory is known."""
    parser = argparse.ArgumentParser()
    hostile.add_arguments(parser)
    parser.set_defaults(save=None, json=False)
    report = hostile.run(parser.parse_args(["--only=deeply nested", "--rounds=1", "--quiet-s=1"]))

    (row,) = report.figures["rows"]
    assert row["alone_ms"] > 0
    assert row["gap_ms"] > 0
    assert row["health_ms"] > 0
    assert row["peak_mib"] >= row["memory_mib"] > 30
    assert row["refused"] == "-"
