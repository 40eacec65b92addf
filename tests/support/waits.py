"""Waiting in tests: a condition, a deadline, and a failure that says what was awaited."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
DEADLINE_S = 20.0  # for what takes milliseconds on an idle machine


def _pause() -> None:
    time.sleep(0.01)


def wait_for(
    condition: Callable[[], Value],
    what: str,
    seconds: float = DEADLINE_S,
    meanwhile: Callable[[], object] = _pause,
) -> Value:
    """The first true value of ``condition``; fails after ``seconds``, naming ``what`` was awaited.

    Args:
        condition: polled until it returns something true.
        what: names the condition in the failure, as in "the engine is ready".
        seconds: how long it may take.
        meanwhile: done between two looks; sleeps unless the test has work to drive.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        meanwhile()
    return value
