"""Streams under chaos: half a minute in CI; `make soak` runs two (``streams``)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.positions import places_of
from tests.chaos.streams import CLIENTS, gap_at, run
from tests.support.survival import Streamed, same

MINUTES = 0.5


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(900)
def test_half_a_minute_of_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No request fails, no answer differs, nothing is left, whatever befalls the engines."""
    seed = random.randrange(10**6)
    with capsys.disabled():
        print(f"\npython -m tests.chaos.streams --minutes {MINUTES} --seed {seed}")
        report = run(MINUTES, seed, tmp_path)
        print(report.markdown())
    assert report.figures["streams"] >= CLIENTS
    assert report.figures["moves"]
    assert report.figures["batch"] >= CLIENTS


def test_an_answer_that_differs_is_found() -> None:
    """A token more, less or other, another end, another count, a log-probability that is off; not the way in which
    choices mix."""
    lines = [f'data: {{"choices":[{{"index":{i % 2},"text":"{i}","logprob":-0.{i}1}}]}}' for i in range(6)]
    told = Streamed([*lines, 'data: {"choices":[],"usage":{"completion_tokens":6}}', "data: [DONE]"])
    mixed = Streamed([*lines[1::2], *lines[::2], *told.lines[6:]])
    assert same(mixed, told)
    others = [
        told.lines[1:],
        [lines[0], *told.lines],
        [*told.lines[:2], told.lines[2].replace('"2"', '"3"'), *told.lines[3:]],
        [*lines, told.lines[6].replace("6", "7"), told.lines[7]],
        told.lines[:-1],
        [lines[0].replace("-0.01", "-0.0101"), *told.lines[1:]],
    ]
    assert not any(same(Streamed(other), told) for other in others)


def test_the_places_of_an_answer() -> None:
    """Every so many events, and one in the middle of an answer that has few."""
    assert places_of(132, 7) == list(range(7, 123, 7))
    assert places_of(12, 7) == [4]


def test_the_gap_at_a_moment() -> None:
    """Between the events before and behind it; none before the first or behind the last."""
    told = Streamed(["a", "b", "c"], [1.0, 2.0, 5.0])
    assert [gap_at(told, when) for when in (0.5, 1.0, 3.0, 5.0)] == [0.0, 1.0, 3.0, 0.0]
