"""Answers go on in another engine when theirs is gone, and nobody who reads them can see it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from quire_proto.gateway_link import Generate, Message, Output, Outputs, TokenLogprob
from quire_proto.wire.u32 import pack_u32, unpack_u32
from quire_services.gateway.failover.suspects import MOST_IN_ALL
from quire_services.gateway.link.engine import QUIET_S
from tests.services.gateway.test_engines import Background
from tests.support.gateway import GatewayProcess, Start
from tests.support.peer_engine import Branch, PeerEngine
from tests.support.waits import wait_for

PROMPT = "the quick brown fox jumps over the lazy dog"
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
PLAIN: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 30, "seed": 5}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 30}
ASKED: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "chat, log-probabilities": CHAT | {"logprobs": True, "top_logprobs": 2},
    "greedy": PLAIN | {"temperature": 0},
    "several": PLAIN | {"n": 3},
    "best of": PLAIN | {"n": 2, "best_of": 3, "stream": False},
    "batch": PLAIN | {"prompt": [PROMPT, PROMPT + "!"]},
    "stop string": PLAIN | {"stop": ["lazy dog"], "min_tokens": 3},
    "echo": PLAIN | {"echo": True, "logprobs": 1},
    "prompt scores": PLAIN | {"prompt_logprobs": 1, "stream": False},
    "min_tokens": PLAIN | {"min_tokens": 12, "stop_token_ids": [30, 40, 50]},
}
Ask = Callable[[dict[str, Any]], httpx.Response]


@pytest.fixture(scope="module")
def process(model: Any) -> Iterator[GatewayProcess]:
    """A gateway that waits for engines."""
    started = GatewayProcess(model, "--hold-s=20").wait()
    yield started
    assert started.stop() == 0


def body(asked: dict[str, Any]) -> dict[str, Any]:
    """A stream with its usage, if nothing else is asked for."""
    return asked if asked.get("stream") is False else STREAM | asked


def answer(process: GatewayProcess, asked: dict[str, Any]) -> httpx.Response:
    path = "/v1/chat/completions" if "messages" in asked else "/v1/completions"
    return process.http.post(path, json=body(asked))


def comparable(response: httpx.Response) -> list[str]:
    """Its body in lines, those of a choice in order, without what differs from one answer to the next."""
    assert response.status_code == 200, response.text
    text = re.sub(r'"(id|created|system_fingerprint)":("[^"]*"|\d+)', "", response.text)
    lines = [line for line in text.splitlines() if line and not line.startswith(":")]
    return sorted(lines, key=lambda line: int((re.findall(r'"index":(\d+)', line) or ["99"])[0]))


def disturbed(
    process: GatewayProcess,
    asked: dict[str, Any],
    every: int,
    kind: type[PeerEngine] = PeerEngine,
    follow: Mapping[int, int] = {},
    **options: Any,
) -> tuple[httpx.Response, list[PeerEngine]]:
    """The answer while its engine dies after every so many tokens, and those engines."""
    out: list[httpx.Response] = []
    engines = [process.engine("peer-0", **options)]
    engines[0].steps, engines[0].cached_tokens, engines[0].follow = every, 3, follow
    thread = threading.Thread(target=lambda: out.append(answer(process, asked)))
    thread.start()
    while not out:
        last = engines[-1]
        wait_for(lambda last=last: out or last.stalled(), "it has come so far", 20)
        if not out:
            engine = process.engine(f"peer-{len(engines)}", kind, **options)
            engine.steps, engine.cached_tokens, engine.follow = (last.steps or 0) + every, 9, follow
            engines.append(engine)
            last.close()
    thread.join()
    engines[-1].close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "the last is gone")
    return out[0], engines


@pytest.mark.parametrize("every", [7, 1])
@pytest.mark.parametrize("kind", ASKED)
def test_an_answer_is_the_same_wherever_its_engines_die(process: GatewayProcess, kind: str, every: int) -> None:
    """Bytes, usage and finish, though its engine dies after every so many tokens; no token is asked for twice."""
    with_one = process.engine()
    with_one.cached_tokens = 3
    whole = answer(process, ASKED[kind])
    with_one.close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "the engine is gone")
    again, engines = disturbed(process, ASKED[kind], every)
    assert comparable(again) == comparable(whole)
    assert len(engines) > 7 // every
    first = engines[0].requests
    for number, engine in enumerate(engines[1:], 1):
        assert all(len(unpack_u32(one.emitted)) == number * every for one in engine.requests)
        assert {one.request for one in engine.requests}.isdisjoint(one.request for one in first)
        assert all(one.tokens in {request.tokens for request in first} for one in engine.requests)


class TellsAgain(PeerEngine):
    """Sends what the client has already."""

    def _take(self, message: Message) -> None:
        super()._take(replace(message, emitted=b"") if isinstance(message, Generate) else message)


class TakesAllForTheFirst(PeerEngine):
    """Goes on as another continuation would."""

    def _token(self, branch: Branch) -> Output:
        number, branch.index = branch.index, 0
        output = super()._token(branch)
        branch.index = number
        return replace(output, index=number)


@pytest.mark.parametrize("fault", [TellsAgain, TakesAllForTheFirst])
def test_faults_are_seen(process: GatewayProcess, fault: type[PeerEngine]) -> None:
    """Text that is sent again, and a number that is not carried: the comparison above is one that can fail."""
    one = process.engine()
    whole = answer(process, ASKED["several"])
    one.close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "the engine is gone")
    again, _ = disturbed(process, ASKED["several"], 7, fault)
    assert comparable(again) != comparable(whole)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies_before_the_first_token(process: GatewayProcess, stream: bool) -> None:
    """The request is asked again as it was, for all its continuations at once; log-probabilities of the prompt that had
    come from the first engine are not told twice, and what that had computed of it counts for none of its hits.
    Header and log name both engines."""
    asked = PLAIN | {"n": 3, "prompt_logprobs": 1, "stream": stream}
    if stream:
        del asked["prompt_logprobs"]
    one = process.engine("one")
    one.cached_tokens = 3
    whole = answer(process, asked)
    one.steps = 0
    waiting = Background(process, **body(asked))
    wait_for(lambda: len(one.requests) == 2, "the request")
    if not stream:
        told = (TokenLogprob(-9.0, rank=3),)
        one.send(Outputs((Output(one.requests[1].request, 0, prompt_logprobs=told),)))
    two = process.engine("two")
    two.cached_tokens = cached = 1
    one.close()
    assert '"cached_tokens":3' in whole.text
    assert comparable(waiting.result()) == comparable(whole)
    answered = waiting.result()
    assert answered.headers["x-quire-engine"] == ("one" if stream else "one,two")
    name = answered.headers["x-request-id"]
    line = wait_for(lambda: next((x for x in process.lines() if x.get("request_id") == name), None), "it is logged")
    assert line
    assert (line["engines"], line["moves"]) == ("one,two", 3)
    assert line["recomputed_tokens"] == line["prompt_tokens"] - cached
    assert line["recomputed_handoff_tokens"] == 0
    (again,) = two.requests
    assert (again.n, again.index, again.emitted, again.sampling) == (3, 0, b"", one.requests[1].sampling)
    two.close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "both are gone")


@pytest.mark.parametrize("how", ["kvstore", "stopped", "killed"])
def test_the_only_engine_comes_back(process: GatewayProcess, how: str) -> None:
    """With a new kvstore, or as a new process after it stopped in order or was killed: the answer goes on there."""
    one = process.engine("one")
    one.steps = 5
    waiting = Background(process, **PLAIN)
    wait_for(one.stalled, "it has begun")
    if how == "kvstore":
        one.load(ready=False)
        one.fail_all("kvstore_lost", "gone")
        wait_for(lambda: not process.health()["engines"]["ready"], "it has no kvstore")
        one.steps = None
        one.load(ready=True)
    else:
        if how == "stopped":
            one.send(Outputs((Output(one.requests[0].request, 0, finish="abort"),)))
        one.close()
        wait_for(lambda: not process.health()["engines"]["connected"], "it is gone")
        one = process.engine("one")
    assert waiting.result().json()["usage"]["completion_tokens"] == 30
    again = one.requests[-1]
    assert again.emitted == pack_u32(unpack_u32(again.tokens)[:5])
    one.close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "it is gone")


def test_what_an_engine_sends_too_late_is_dropped(process: GatewayProcess) -> None:
    """One that has been silent for ten seconds is left; when it wakes up it is told so, and what it had on its way adds
    nothing to the answer."""
    silent, other = process.engine("silent"), process.engine("other")
    silent.steps = other.steps = 5
    silent.beats = False
    both = [Background(process, **PLAIN) for _ in range(2)]
    wait_for(lambda: silent.stalled() and other.stalled(), "one request each")
    deadline = time.monotonic() + 20
    while len(other.requests) < 2:
        other.load(ready=True)
        assert time.monotonic() < deadline, "it has moved"
        time.sleep(0.5)
    (late,) = silent.requests
    wait_for(lambda: [one.request for one in silent.aborts] == [late.request], "it is told")
    silent.send(Outputs((Output(late.request, 0, pack_u32([9, 9, 9])),)))
    silent.load(ready=True)
    other.steps = None
    (text,) = {one.result().json()["choices"][0]["text"] for one in both}
    assert text == (PROMPT * 4)[: len(text)]
    for engine in (silent, other):
        engine.close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "both are gone")


def test_an_engine_that_may_have_been_stopped_is_not_trusted(process: GatewayProcess) -> None:
    """What has lost its engine goes on in one that was just heard of, busy as that may be."""
    one, quiet, other = (process.engine(name) for name in ("one", "quiet", "other"))
    one.steps, quiet.beats = 3, False
    began = time.monotonic()
    wait_for(lambda: time.monotonic() > began + QUIET_S, "two are quiet")
    other.load(ready=True, running=50)
    one.load(ready=True)
    waiting = [Background(process, **PLAIN) for _ in range(2)]
    wait_for(one.stalled, "it has begun")
    other.load(ready=True, running=50)
    one.close()
    assert [answer.result().status_code for answer in waiting] == [200] * 2
    assert any(request.emitted for request in other.requests)
    assert not any(request.emitted for request in quiet.requests)
    for engine in (quiet, other):
        engine.close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "all are gone")


def test_no_other_engine_in_time(start: Start) -> None:
    """The stream lives on for as long as is stated, and ends with an error event; what has not begun gets 503."""
    process = start("--hold-s=1.5", "--ping-s=0.2")
    engine = process.engine()
    engine.steps = 2
    begun = [Background(process, **PLAIN, stream=stream) for stream in (True, False)]
    wait_for(lambda: len(engine.requests) == 2 and engine.stalled(), "both have begun")
    began = time.monotonic()
    engine.close()
    stream, whole = (one.result() for one in begun)
    assert 1.4 < time.monotonic() - began < 5
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "service_unavailable")
    assert "none came within 1.5 seconds" in whole.json()["error"]["message"]
    assert stream.status_code == 200
    *_, last = (line for line in stream.text.splitlines() if line.startswith("data: "))
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "service_unavailable"
    assert stream.text.count("\n: ") + stream.text.startswith(": ") >= 3, "pings"


def test_a_client_that_leaves_is_not_gone_on_with(process: GatewayProcess) -> None:
    """Of those that wait for an engine, the ones whose client has hung up are not asked of the next."""

    def gone() -> int:
        return sum(line.get("outcome") == "client_gone" for line in process.lines())

    one, before = process.engine("one"), gone()
    one.steps = 3
    with process.http.stream("POST", "/v1/completions", json=PLAIN | STREAM) as response:
        lines = response.iter_lines()  # httpx closes the connection when nobody holds it any more
        next(lines)
        one.close()
        wait_for(lambda: process.health()["engines"]["connected"] == 0, "it is gone")
    wait_for(lambda: gone() > before, "it is noticed")
    two = process.engine("two")
    assert answer(process, PLAIN).status_code == 200
    assert len(two.requests) == 1
    two.close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "it is gone")


# --- what kills engines ------------------------------------------------------------------------------------------


def deadly(process: GatewayProcess, tokenizer: Tokenizer, prompt: str) -> Callable[[str], PeerEngine]:
    """Starts engines that the prompt kills."""
    packed = pack_u32(tokenizer.encode(prompt, add_special_tokens=False).ids)

    def begin(name: str) -> PeerEngine:
        return process.engine(name, poison=packed)

    return begin


def test_a_request_that_kills_engines_kills_two(start: Start, tokenizer: Tokenizer) -> None:
    """Then it gets an error, and the answers beside it, begun before or waiting still, are whole."""
    process, prompt = start("--hold-s=20"), "pack my box"
    begin = deadly(process, tokenizer, prompt)
    engines = [begin(f"peer-{number}") for number in range(4)]
    for engine in engines:
        engine.steps = 5
    beside = [Background(process, **PLAIN) for _ in range(8)]
    wait_for(lambda: all(len(engine.requests) == 2 and engine.stalled() for engine in engines), "all have begun")
    stopped = process.http.post("/v1/completions", json=PLAIN | {"prompt": prompt})
    assert (stopped.status_code, stopped.json()["error"]["code"]) == (500, "engines_died")
    assert process.health()["engines"]["connected"] == 2
    for engine in engines:
        engine.steps = None
    assert [one.result().json()["usage"]["completion_tokens"] for one in beside] == [30] * 8


def test_a_request_that_kills_engines_among_others_that_wait(start: Start, tokenizer: Tokenizer) -> None:
    """Where it cannot be told which one it was, each goes on by itself: one more dies, and it alone gets an error."""
    process, prompt = start("--hold-s=20"), "pack my box"
    begin = deadly(process, tokenizer, prompt)
    first = begin("peer-0")
    first.steps, first.poison = 0, b""
    waiting = [Background(process, **PLAIN) for _ in range(3)]
    killer = Background(process, **PLAIN | {"prompt": prompt})
    waiting += [Background(process, **PLAIN) for _ in range(3)]
    wait_for(lambda: len(first.requests) == 7, "all wait")
    second = process.engine("peer-1")  # has nothing for anybody yet
    second.steps = 0
    first.close()
    wait_for(lambda: len(second.requests) == 7, "all wait again")
    second.close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "it is gone")
    third, fourth = begin("peer-2"), None
    wait_for(lambda: process.health()["engines"]["connected"] == 0 or not third.busy(), "it dies or has done all")
    if not killer.response:
        fourth = begin("peer-3")
    assert (killer.result().status_code, killer.result().json()["error"]["code"]) == (500, "engines_died")
    fourth = fourth or begin("peer-3")
    assert [one.result().json()["usage"]["completion_tokens"] for one in waiting] == [30] * 6
    assert fourth.poison not in {one.tokens for one in fourth.requests}


def test_a_request_that_kills_engines_after_some_tokens_each(start: Start) -> None:
    """It is stopped when it has killed so many, though each has given it a token."""
    process = start("--hold-s=20")
    engine = process.engine("peer-0")
    engine.steps = 1
    deadly = Background(process, **PLAIN | {"max_tokens": 60})
    for number in range(1, MOST_IN_ALL + 1):
        wait_for(engine.stalled, "it has gone on")
        assert not deadly.response
        following = process.engine(f"peer-{number}")
        following.steps = number + 1
        engine.close()
        engine = following
    assert (deadly.result().status_code, deadly.result().json()["error"]["code"]) == (500, "engines_died")
    assert not engine.requests


def test_an_engine_that_was_dying_is_no_evidence(start: Start) -> None:
    """Any number may die before they have received a request."""
    process, waiting = start("--hold-s=20"), None
    for number in range(4):
        engine = process.engine(f"peer-{number}", reads=False, steps=0)
        waiting = waiting or Background(process, **PLAIN)
        wait_for(lambda engine=engine: engine.requests, "it is sent there")
        engine.close()
        wait_for(lambda: process.health()["engines"]["connected"] == 0, "it is gone")
    process.engine("last")
    assert waiting is not None
    assert waiting.result().status_code == 200


def test_a_token_clears_a_request(start: Start) -> None:
    """Any number of engines may die under an answer that goes on in between, or at the same moment as others'."""
    process = start("--hold-s=20")
    engine = process.engine("peer-0")
    engine.steps = 1
    answers = [Background(process, **PLAIN | {"max_tokens": 8}) for _ in range(3)]
    wait_for(lambda: len(engine.requests) == 3 and engine.stalled(), "they have begun")
    for number in range(1, 8):
        idle = process.engine(f"idle-{number}")
        idle.steps = 0  # dies before it gives them anything
        engine.close()
        wait_for(lambda idle=idle: len(idle.requests) == 3, "they wait")
        engine = process.engine(f"peer-{number}")
        engine.steps = number + 1
        idle.close()
        wait_for(
            lambda engine=engine: len(engine.requests) == 3 and (engine.stalled() or not engine.busy()), "a token more"
        )
    assert [one.result().json()["usage"]["completion_tokens"] for one in answers] == [8] * 3
