"""Engines of a whole stack are drained, stopped and killed under streams: the same bytes, no token twice."""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from bench.models.tiny import make_model
from tests.support.gateway import write_tokenizer
from tests.support.operated import Operated
from tests.support.ports import free_port
from tests.support.stack import running_stack
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]
STREAMS = 16
TOKENS = 480
AGAIN = "recomputed_handoff_tokens"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model(tmp_path_factory.mktemp("drain-model") / "model", vocab=320)
    write_tokenizer(model)
    return model


@pytest.fixture(scope="module")
def stack(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    port = free_port()
    flags = (f"--admin-port={port}", "--hold-s=60")
    with running_stack(tmp_path_factory.mktemp("drain"), model, *flags, engines=2, blocks=2048) as it:
        started = Operated(it, port)
        yield started
        started.admin.close()


class Streams:
    """Completions that are streamed at the same time: texts, and when each of their events came."""

    def __init__(self, stack: Operated, many: int, salt: str) -> None:
        self.texts, self.times = [""] * many, [list[float]() for _ in range(many)]
        self._stack, self._salt = stack, salt
        self._threads = [threading.Thread(target=self._read, args=(number,)) for number in range(many)]
        for thread in self._threads:
            thread.start()

    def _read(self, number: int) -> None:
        body = {
            "model": "m", "prompt": f"the quick fox {number}", "max_tokens": TOKENS, "ignore_eos": True, "stream": True,
            "seed": number, "temperature": number % 2, "cache_salt": self._salt, "n": 1,
        }  # fmt: skip
        with httpx.stream("POST", self._stack.url + "/v1/completions", json=body, timeout=120) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    choice = json.loads(line[6:])
                    assert "error" not in choice, line
                    self.texts[number] += choice["choices"][0]["text"]
                    self.times[number].append(time.monotonic())

    def begun(self, events: int = 20) -> Streams:
        """When each has so many events."""
        wait_for(lambda: all(len(times) > events for times in self.times), "all have begun", 60)
        return self

    def result(self) -> list[str]:
        """Their texts."""
        for thread in self._threads:
            thread.join(120)
        return self.texts

    def gap(self) -> float:
        """The largest gap of a stream, in its median steps."""
        found = []
        for times in self.times:
            gaps = [b - a for a, b in pairwise(times)]
            found.append(max(gaps) / statistics.median(gaps))
        return max(found)


@pytest.fixture(scope="module")
def whole(stack: Operated) -> list[str]:
    """The texts that nothing disturbs."""
    return Streams(stack, STREAMS, "whole").result()


def carrier(stack: Operated) -> str:
    """The engine that has most to do."""
    return max(stack.rows().values(), key=lambda row: int(row["sequences"]))["name"]


def test_a_drain_under_streams(stack: Operated, whole: list[str]) -> None:
    """To and fro between two engines: every byte the same, nothing computed twice, nothing left where it was."""
    stack.ready()
    before, streams = stack.count(AGAIN), Streams(stack, STREAMS, "drained").begun()
    for name in ("engine-1", "engine-2", "engine-1"):
        answer = stack.admin.post(f"/engines/{name}/drain", json={})
        assert answer.status_code == 200, answer.text
        wait_for(lambda name=name: stack.rows()[name]["state"] == "drained", f"{name} is drained", 60)
        assert stack.admin.post(f"/engines/{name}/undrain", json={}).status_code == 200
    assert streams.result() == whole
    assert stack.count(AGAIN) == before
    assert stack.count("adopted") == stack.count("offered") > STREAMS
    print(f"largest gap: {streams.gap():.1f} median steps")


def test_a_signal_is_a_drain(stack: Operated, whole: list[str]) -> None:
    """The engine ends with code 0 when its streams go on elsewhere, and nothing was computed twice."""
    stack.ready()
    streams = Streams(stack, STREAMS, "signalled").begun()
    name = carrier(stack)
    os.kill(stack.rows()[name]["pid"], signal.SIGTERM)
    wait_for(lambda: f"{name} ended with exit code 0" in stack.log.read_text(), "it ends", 60)
    (other,) = set(stack.rows()) - {name}
    assert streams.result() == whole
    counters = stack.rows()[other]["counters"]
    assert (counters[AGAIN], counters["recomputed_loss_tokens"]) == (0, 0)
    assert counters["adopted"] > 0


def source(stack: Operated, name: str) -> str:
    return name


def target(stack: Operated, name: str) -> str:
    return next(other for other in stack.rows() if other != name)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [source, target])
def test_a_kill_in_the_middle_of_a_handoff(
    stack: Operated, whole: list[str], victim: Callable[[Operated, str], str]
) -> None:
    """Of either engine, at once when the drain is asked for: every byte the same, and no block is left behind."""
    stack.ready()
    streams = Streams(stack, STREAMS, "killed" + victim.__name__).begun()
    name = carrier(stack)
    pid = stack.rows()[victim(stack, name)]["pid"]
    asked = threading.Thread(target=lambda: stack.admin.post(f"/engines/{name}/drain", json={}))
    asked.start()
    os.kill(pid, signal.SIGKILL)
    asked.join()
    if victim is target:
        wait_for(lambda: len(stack.rows()) == 2, "a new one is there", 90)
        stack.admin.post(f"/engines/{name}/undrain", json={})
    assert streams.result() == whole
    stack.ready()
    wait_for(lambda: not any(session.sequences for session in stack.stats().sessions), "nothing is left", 30)
    wait_for(lambda: stack.stats().blocks["held"] == 0, "no block is held", 30)


@pytest.mark.slow
def test_roles_in_a_whole_stack(model: Path, tmp_path: Path, stack: Operated, whole: list[str]) -> None:
    """One engine prefills and the other decodes, and nothing is computed twice; alone, each does all."""
    port = free_port()
    flags = (f"--admin-port={port}", "--prefill-engines=1", "--hold-s=60")
    with running_stack(tmp_path, model, *flags, engines=2, blocks=2048) as it:
        roles = Operated(it, port)
        roles.ready()
        assert {row["name"]: row["role"] for row in roles.rows().values()} == {
            "engine-1": "prefill",
            "engine-2": "decode",
        }
        assert Streams(roles, STREAMS, "roles").result() == whole
        one, two = (roles.rows()[name]["counters"] for name in ("engine-1", "engine-2"))
        assert (one["offered"], two["adopted"], two[AGAIN]) == (STREAMS, STREAMS, 0)
        for name in ("engine-2", "engine-1"):
            streams = Streams(roles, STREAMS, "without" + name).begun()
            os.kill(roles.rows()[name]["pid"], signal.SIGKILL)
            assert streams.result() == whole
            roles.ready()
        roles.admin.close()
