"""Answers survive their engines in a whole stack: kill -9 in mid-sentence, and the client reads the same bytes."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.models.tiny import make_model
from tests.support.gateway import write_tokenizer
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]
SYSTEM = "the quick brown fox jumps over the lazy dog and packs five dozen boxes " * 4
TOKENS = 260
USER: Any = [{"role": "user", "content": "pack my box"}]
ITEMS = {"type": "array", "items": {"enum": ["fox", "dog", "jug"]}, "minItems": 30, "maxItems": 40}
SCHEMA = {"type": "object", "properties": {"of": ITEMS}, "required": ["of"], "additionalProperties": False}
FREE = {"ignore_eos": True, "max_tokens": TOKENS}
PLAIN: dict[str, Any] = {"prompt": "the quick fox", **FREE}
ASKED: dict[str, dict[str, Any]] = {
    "greedy": PLAIN | {"temperature": 0},
    "seeded": PLAIN | {"seed": 7, "top_p": 0.95, "frequency_penalty": 0.3},
    "n=4": {"messages": USER, "n": 4, "seed": 3, **FREE},
    "json_schema": {
        "messages": USER,
        "seed": 5,
        "max_tokens": 600,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
    },
    "logprobs": {"messages": USER, "seed": 9, "logprobs": True, "top_logprobs": 2, **FREE},
    "stop string": PLAIN | {"seed": 11},
    "echo": PLAIN | {"echo": True, "logprobs": 1, "seed": 13},
    "published": {"messages": [{"role": "system", "content": SYSTEM}, *USER], "seed": 15, **FREE},
}
SAMPLE = ("n=4", "json_schema")  # the others take a minute more
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
MODELS: dict[str, dict[str, Any]] = {"full": {}, "window": {"family": "mistral", "window": 24}}


@pytest.fixture(scope="module", params=["full", pytest.param("window", marks=pytest.mark.slow)])
def stack(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp(f"survival-{request.param}")
    model = make_model(tmp / "model", vocab=320, **MODELS[request.param])
    write_tokenizer(model)
    (tmp / "system.txt").write_text(SYSTEM)
    config = f'[[published]]\nfile = "{tmp / "system.txt"}"\ndomain = "public"\nid = "agent"\n'
    with running_stack(tmp, model, "--hold-s=60", engines=2, config=config) as it:
        yield it


def kill(_: Stack, pid: int) -> None:
    """As the kernel does when memory is short."""
    os.kill(pid, signal.SIGKILL)


def stop(_: Stack, pid: int) -> None:
    """It hangs; the kvstore fences and kills it when its lease is over."""
    os.kill(pid, signal.SIGSTOP)


def ask_to_end(_: Stack, pid: int) -> None:
    """It gives back what it carries."""
    os.kill(pid, signal.SIGTERM)


def kill_kvstore(stack: Stack, _: int) -> None:
    """All engines lose it, and attach to the next."""
    os.kill(stack.pid_of("kvstore"), signal.SIGKILL)


def stream(stack: Stack, asked: dict[str, Any], kills: int, end: Callable[[Stack, int], None] = kill) -> list[str]:
    """Its events, those of a choice in order, while the engine that works on it is ended so many times, each time
    after some more events."""
    path = "/v1/chat/completions" if "messages" in asked else "/v1/completions"
    body = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, **asked}
    lines, killed = list[str](), list[int]()
    with stack.http.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            lines.append(re.sub(r'"(id|created|system_fingerprint)":("[^"]*"|\d+)', r'"\1":0', line))
            if len(killed) < kills and len(lines) >= 7 * (len(killed) + 1):
                pid = worker(stack)
                if pid not in (0, *killed):
                    end(stack, pid)
                    killed.append(pid)
    assert len(killed) == kills, lines[-3:]
    return sorted(lines, key=lambda one: int((re.findall(r'"index":(\d+)', one) or ["99"])[0]))


def worker(stack: Stack) -> int:
    """The process that has sequences; 0 if none has."""
    return next((s.pid for s in stack.stats().sessions if s.state == "ready" and s.sequences), 0)


def alike(one: list[str], other: list[str]) -> bool:
    """Whether they are the same but for the last digits of log-probabilities: rows of a prompt add up in another order
    than single ones."""
    a, b = "".join(one), "".join(other)
    if NUMBER.sub("#", a) != NUMBER.sub("#", b):
        return False
    pairs = zip(NUMBER.findall(a), NUMBER.findall(b), strict=True)
    return all(abs(float(x) - float(y)) < 1e-3 for x, y in pairs)


@pytest.mark.parametrize(
    "kind", [kind if kind in SAMPLE else pytest.param(kind, marks=pytest.mark.slow) for kind in ASKED]
)
def test_a_stream_is_the_same_whichever_engine_is_killed(stack: Stack, kind: str) -> None:
    """Two kills of whichever engine works on it: text, usage and end are those of a stream that nothing disturbed."""
    asked, salts = ASKED[kind], ("", "") if kind == "published" else ("a" + kind, "b" + kind)
    if kind == "stop string":
        text = "".join(json.loads(one[6:])["choices"][0]["text"] for one in stream(stack, asked, 0)[:-2])
        asked = asked | {"stop": [text[-60:-52]], "min_tokens": TOKENS // 2}
    wait_for(lambda: len(stack.ready_sessions()) == 2, "both engines are there", 60)
    for _ in range(2 if kind == "published" else 1):  # then what it has in common with others is cached
        whole = stream(stack, asked | ({"cache_salt": salts[0]} if salts[0] else {}), 0)
    again = stream(stack, asked | ({"cache_salt": salts[1]} if salts[1] else {}), 2)
    assert again == whole or (kind in ("logprobs", "echo") and alike(again, whole))
    wait_for(lambda: not any(session.sequences for session in stack.stats().sessions), "nothing is left", 20)


@pytest.mark.parametrize("end", [stop, ask_to_end, kill_kvstore])
def test_a_stream_is_the_same_however_its_engine_ends(stack: Stack, end: Callable[[Stack, int], None]) -> None:
    """By a hang, in order, or by the end of the kvstore under all engines: the same bytes."""
    wait_for(lambda: len(stack.ready_sessions()) == 2, "both engines are there", 60)
    asked = ASKED["n=4"]
    whole = stream(stack, asked | {"cache_salt": "whole" + end.__name__}, 0)
    assert stream(stack, asked | {"cache_salt": "again" + end.__name__}, 1, end) == whole
    wait_for(lambda: len(stack.ready_sessions()) == 2, "both engines are there", 60)
    wait_for(lambda: not any(session.sequences for session in stack.stats().sessions), "nothing is left", 20)
