"""Streams that run while something happens to a stack: each must be, byte for byte, as it was when nothing happened."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from tests.support.stack import Stack
from tests.support.waits import wait_for

PROMPT = "the quick fox"


@dataclass(slots=True)
class Stream:
    """What came of one stream.

    Attributes:
        text: all of it.
        times: when each event of it came, in seconds.
    """

    text: str = ""
    times: list[float] = field(default_factory=list)

    def gap_in_steps(self) -> float:
        """Its longest pause between two events, in median pauses."""
        return max(self._gaps()) / self.step()

    def step(self) -> float:
        """Its median pause between two events, in seconds."""
        return median(self._gaps())

    def _gaps(self) -> list[float]:
        return [after - before for before, after in pairwise(self.times)]


def streamed(stack: Stack, seed: int, tokens: int) -> Stream:
    """One stream of so many tokens; fails if it ends in any other way."""
    body = {"model": "m", "prompt": PROMPT, "seed": seed, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    stream, finish = Stream(), None
    with stack.http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                said = json.loads(line[6:])
                assert "error" not in said, said
                (choice,) = said["choices"]
                stream.text, finish = stream.text + choice["text"], choice["finish_reason"]
                stream.times.append(time.monotonic())
    assert finish == "length", stream.text
    return stream


class Streams:
    """So many streams, again and again while the context is open.

    Attributes:
        done: those that have ended since it was opened; all as they were before.
    """

    def __init__(self, stack: Stack, number: int, tokens: int) -> None:
        self._stack, self._seeds, self._tokens = stack, range(number), tokens
        self._pool = ThreadPoolExecutor(number)
        self._whole = [s.text for s in self._pool.map(lambda seed: streamed(stack, seed, tokens), self._seeds)]
        self._over = False
        self._running: list[Future[None]] = []
        self.done: list[Stream] = []

    def __enter__(self) -> Streams:
        self._running = [self._pool.submit(self._repeat, seed) for seed in self._seeds]
        wait_for(lambda: any(session.sequences for session in self._stack.stats().sessions), "streams run")
        return self

    def _repeat(self, seed: int) -> None:
        while not self._over:
            stream = streamed(self._stack, seed, self._tokens)
            assert stream.text == self._whole[seed]
            self.done.append(stream)

    def __exit__(self, kind: type | None, _error: object, _trace: object) -> None:
        self._over = True
        self._pool.shutdown()
        if kind is None:
            for stream in self._running:
                stream.result()
