"""Answers that survive their engines: what is asked, what befalls the engines meanwhile, and what must be the same.

The kinds are those that lose something of their own where an answer goes on elsewhere: a random number's place, the
choices of one prompt, the state of a grammar or of a parser, log-probabilities, the window of a stop string, text
before the answer, a published prompt. The models are one with full attention, one with a sliding window, and the
puppet, which calls tools.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.models.tiny import make_model
from tests.support.gateway import write_tokenizer
from tests.support.puppet import make_puppet
from tests.support.puppet_chats import ask
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

SYSTEM = "the quick brown fox jumps over the lazy dog and packs five dozen boxes " * 4
TOKENS = 130
USER: Any = [{"role": "user", "content": "pack my box"}]
ITEMS = {"type": "array", "items": {"enum": ["fox", "dog", "jug"]}, "minItems": 12, "maxItems": 16}
SCHEMA = {"type": "object", "properties": {"of": ITEMS}, "required": ["of"], "additionalProperties": False}
FREE = {"ignore_eos": True, "max_tokens": TOKENS}
PLAIN: dict[str, Any] = {"prompt": "the quick fox", **FREE}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": PLAIN | {"temperature": 0},
    "seeded": PLAIN | {"seed": 7, "top_p": 0.95, "frequency_penalty": 0.3},
    "n=4": {"messages": USER, "n": 4, "seed": 3, **FREE},
    "json_schema": {
        "messages": USER,
        "seed": 5,
        "max_tokens": 300,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
    },
    "logprobs": {"messages": USER, "seed": 9, "logprobs": True, "top_logprobs": 2, **FREE},
    "stop string": PLAIN | {"seed": 11},
    "echo": PLAIN | {"echo": True, "logprobs": 1, "seed": 13},
    "published": {"messages": [{"role": "system", "content": SYSTEM}, *USER], "seed": 15, **FREE},
}
CALLS = {"tool call": ask("two", n=2) | {"seed": 17}, "reasoning, tool call": ask("thinks") | {"seed": 19}}
MODELS: dict[str, dict[str, Any]] = {"full": {}, "window": {"family": "mistral", "window": 24}}
LEASE = ("--lease-ms=1500", "--fence-grace-ms=500")
VARIES = re.compile(r'"(id|created|system_fingerprint)":("[^"]*"|\d+)')
End = Callable[[Stack, int], None]


@dataclass
class Streamed:
    """A stream as its client read it.

    Attributes:
        lines: its events, without what differs from one answer to the next.
        times: when each was read, monotonic.
        request: its id in the log.
    """

    lines: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    request: str = ""

    @property
    def text(self) -> str:
        """What its first choice says, of a completion."""
        events = [json.loads(line.removeprefix("data: ")) for line in self.lines if line.startswith("data: {")]
        return "".join(one["choices"][0]["text"] for one in events if one["choices"])

    def choices(self) -> list[str]:
        """Its events, those of a choice in order: how choices mix is not promised."""
        return sorted(self.lines, key=lambda one: int((re.findall(r'"index":(\d+)', one) or ["99"])[0]))


@contextmanager
def surviving_stack(tmp: Path, model: str, *flags: str, engines: int = 2, **more: Any) -> Iterator[Stack]:
    """A stack with one of the models, whose answers wait for engines for a minute."""
    flags = ("--hold-s=60", *LEASE, *flags)
    if model == "puppet":
        with running_stack(tmp, make_puppet(tmp / "model"), *flags, engines=engines, **more) as it:
            yield it
        return
    path = make_model(tmp / "model", vocab=320, layers=4, **MODELS[model])
    write_tokenizer(path)
    (tmp / "system.txt").write_text(SYSTEM)
    config = f'[[published]]\nfile = "{tmp / "system.txt"}"\ndomain = "public"\nid = "agent"\n'
    with running_stack(tmp, path, *flags, engines=engines, config=config, **more) as it:
        yield it


def stream(stack: Stack, asked: dict[str, Any], ends: Mapping[int, End] = {}) -> Streamed:
    """Read a stream to its end; after so many of its events each of ``ends`` befalls an engine that works on it."""
    path = "/v1/chat/completions" if "messages" in asked else "/v1/completions"
    body = asked | {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
    told, left, befallen = Streamed(), sorted(ends), set[int]()
    pids = stack.ready_sessions() if left else {}
    with httpx.stream("POST", stack.url + path, json=body, timeout=120, trust_env=False) as response:
        assert response.status_code == 200, response.read()
        told.request = response.headers["x-request-id"]
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            told.times.append(time.monotonic())
            told.lines.append(VARIES.sub(r'"\1":0', line))
            if left and len(told.lines) >= left[0]:
                first = response.headers["x-quire-engine"]  # it may have come after they were looked at
                pid = worker(stack, befallen) if befallen else pids.get(first) or stack.ready_sessions()[first]
                if pid:
                    ends[left.pop(0)](stack, pid)
                    befallen.add(pid)
    assert not left, f"it ended before event {left[0]}: {told.lines[-3:]}"
    return told


def worker(stack: Stack, but: set[int]) -> int:
    """A process that has sequences, and is none of these; 0 if there is none."""
    sessions = stack.stats().sessions
    return next((s.pid for s in sessions if s.state == "ready" and s.sequences and s.pid not in but), 0)


def with_stop(stack: Stack, asked: dict[str, Any]) -> dict[str, Any]:
    """The request with a stop string that comes late in its answer, and no sooner."""
    text = stream(stack, asked).text
    firsts = range(len(text) * 3 // 4, len(text))
    found = ((text[first : first + length], first) for first in firsts for length in range(2, 9))
    whole = (one for one, first in found if one.isprintable() and "\ufffd" not in one and text.find(one) == first)
    return asked | {"stop": [next(whole)]}


def settled(stack: Stack, engines: int) -> None:
    """Wait until so many engines are there, and nothing is left of any answer."""
    wait_for(lambda: len(stack.ready_sessions()) >= engines, "the engines are there", 90)
    wait_for(lambda: not any(session.sequences for session in stack.stats().sessions), "nothing is left", 20)


def same(one: Streamed, other: Streamed) -> bool:
    """Whether two answers to a request are the same, byte for byte, log-probabilities included."""
    return one.choices() == other.choices()


# --- what befalls an engine --------------------------------------------------------------------------------------


def kill(_: Stack, pid: int) -> None:
    """As the kernel does when memory is short."""
    os.kill(pid, signal.SIGKILL)


def hang(_: Stack, pid: int) -> None:
    """It stands still; the kvstore fences it when its lease is over, and kills it."""
    os.kill(pid, signal.SIGSTOP)


def hang_until_fenced(stack: Stack, pid: int) -> None:
    """It goes on when its lease is over: what it has computed meanwhile must reach no client."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: not any(s.pid == pid and s.state == "ready" for s in stack.stats().sessions), "its lease is over")
    os.kill(pid, signal.SIGCONT)


def hang_briefly(_: Stack, pid: int) -> None:
    """It goes on before its lease is over: nothing happens."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(pid, signal.SIGCONT)


def ask_to_end(_: Stack, pid: int) -> None:
    """It is stopped in order."""
    os.kill(pid, signal.SIGTERM)


def kill_kvstore(stack: Stack, _: int) -> None:
    """All engines lose it, and attach to the next."""
    os.kill(stack.pid_of("kvstore"), signal.SIGKILL)


def starve(_: Stack, pid: int) -> None:
    """It gets no more memory: it ends at the next large piece that it needs."""
    hard = resource.prlimit(pid, resource.RLIMIT_AS)[1]
    resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, hard))
