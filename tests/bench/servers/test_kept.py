"""A peer that is kept running, and started anew after it failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from bench.servers.kept import Kept


def test_kept_is_started_once_and_anew_after_a_drop() -> None:
    """The same thing until it is dropped, another one after that; each is stopped once."""
    events: list[str] = []

    @contextlib.contextmanager
    def start() -> Iterator[int]:
        events.append("start")
        yield len(events)
        events.append("stop")

    with Kept(start) as kept:
        assert kept.get() == kept.get() == 1
        kept.drop()
        assert kept.value is None
        assert kept.get() == 3

    assert events == ["start", "stop", "start", "stop"]


def test_failed_start_is_tried_again() -> None:
    """What failed to start holds nothing and is started again when asked for."""
    tries = iter([False, True])

    @contextlib.contextmanager
    def start() -> Iterator[str]:
        if not next(tries):
            raise OSError("port in use")
        yield "up"

    with Kept(start) as kept:
        with pytest.raises(OSError, match="port in use"):
            kept.get()
        assert kept.get() == "up"
