"""The bench of hostile tenants: what it makes of its rounds, and one attack on a real stack."""

from __future__ import annotations

import argparse
import asyncio

import pytest

from bench import hostile
from bench.hostile_attacks import BODIES, FLOODS, Target, answer


def test_rounds_become_medians_and_the_largest_memory() -> None:
    """Times are medians, memory is the largest, text is said once, and what one round lacks is not made up."""
    rounds = [
        {"gap_ms": gap, "peak_mib": peak, "answers": "1 x 400", "first_token_ms": None if gap == 9.0 else gap}
        for gap, peak in ((9.0, 100.0), (1.0, 300.0), (2.0, 200.0))
    ]
    found = hostile.summary(rounds)
    assert (found["gap_ms"], found["peak_mib"], found["answers"]) == (2.0, 300.0, "1 x 400")
    assert found["first_token_ms"] is None
    assert found["rounds"] == rounds


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
            target = Target(server.sockets[0].getsockname()[1], "key", "m", 1)
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
