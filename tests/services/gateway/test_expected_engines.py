"""Requests wait for an engine that is expected back, in bounds, and for the beginning of their answer."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from quire_proto.gateway_link import Hello, encode_message
from quire_proto.wire.u32 import pack_u32
from tests.services.gateway.test_engines import BODY, Background
from tests.support.gateway import GatewayProcess, Start
from tests.support.peer_engine import connect
from tests.support.waits import wait_for

KEYS = """
[[tenants]]
name = "flood"
keys = ["sk-flood"]

[[tenants]]
name = "calm"
keys = ["sk-calm"]
"""


def without_engine(process: GatewayProcess) -> None:
    """An engine comes and goes."""
    process.engine().close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "the engine is gone")


def is_held(process: GatewayProcess, **headers: str) -> bool:
    """A request of a client that waits half a second has no answer by then."""
    try:
        process.http.post("/v1/completions", json=BODY, timeout=0.5, headers=headers)
    except httpx.ReadTimeout:
        return True
    return False


def test_a_default_client_survives_the_end_of_the_only_engine(start: Start) -> None:
    """Both the answer that was being waited for and a request that comes while there is no engine, long body or short,
    are answered by the next engine."""
    process = start()
    engine = process.engine()
    engine.steps = 0
    with openai.OpenAI(base_url=process.url + "/v1", api_key="any") as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.completions.create, **BODY)
        wait_for(lambda: len(engine.requests) == 1, "the request")
        engine.close()
        wait_for(lambda: process.health()["engines"]["connected"] == 0, "the engine is gone")
        assert is_held(process)
        fresh = [Background(process, **more) for more in ({}, {"user": "x" * 20_000}, {"stream": True})]
        assert not any(one.response for one in fresh)
        process.engine()
        assert running.result(30).usage.completion_tokens == 400
    assert [one.result().status_code for one in fresh] == [200, 200, 200]


def test_a_gateway_that_has_just_started_waits_for_its_first_engine(start: Start) -> None:
    """Also while there is one that has not said that it is ready; and says meanwhile that it cannot serve yet."""
    process = start("--hold-s=60")
    fresh = Background(process)
    assert is_held(process)
    with connect(process.run_dir / "gateway.sock") as loading:
        loading.sendall(encode_message(Hello("peer-0", "test", 512, 320, pack_u32([1]), os.getpid())))
        wait_for(lambda: process.health()["engines"]["connected"] == 1, "it has come")
        assert is_held(process)
        assert (process.http.get("/health").status_code, fresh.response) == (503, None)
        process.engine()
        assert fresh.result().status_code == 200


def test_nothing_waits_for_an_engine_for_ever(start: Start) -> None:
    """503 when the time is over; after longer than it takes to begin."""
    process = start("--hold-s=1")
    without_engine(process)
    began = time.monotonic()
    answer = process.http.post("/v1/completions", json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.headers["x-should-retry"] == "true"
    assert 5000 <= int(answer.headers["retry-after-ms"]) <= 7500
    assert time.monotonic() - began >= 1


def test_those_that_wait_are_bounded_by_tenant(start: Start, tmp_path: Path) -> None:
    """A tenant that fills the queue gets 429, another one waits beside it, and a client that hangs up leaves it."""
    (tmp_path / "quire.toml").write_text(KEYS)
    process = start("--max-queue=1", "--hold-s=60", config=tmp_path / "quire.toml")
    flood, calm = ({"authorization": f"Bearer sk-{name}"} for name in ("flood", "calm"))
    without_engine(process)
    for _ in range(2):
        wait_for(lambda: is_held(process, **flood), "there is a place")
    gone = "client_gone"
    wait_for(lambda: [line.get("outcome") for line in process.lines()].count(gone) == 2, "both have left")
    both = [Background(process, headers=flood) for _ in range(2)]
    wait_for(lambda: any(one.response for one in both), "one of them has no place")
    assert is_held(process, **calm)
    process.engine()
    first, second = sorted((one.result() for one in both), key=lambda answer: answer.status_code)
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["code"] == "queue_full"


def test_a_gateway_that_stops_lets_them_go(start: Start) -> None:
    """503 long before their time is over."""
    process = start("--hold-s=60")
    without_engine(process)
    assert is_held(process)
    waiting = Background(process)
    assert is_held(process), "and so is the one before"
    process.process.send_signal(signal.SIGTERM)
    assert waiting.result().status_code == 503
    assert process.process.wait(10) == 0


@pytest.mark.parametrize("said", [{}, {"x-stainless-read-timeout": "0.5"}, {"x-stainless-timeout": "0.5"}])
def test_what_cannot_begin_in_time_is_given_up(start: Start, said: dict[str, str]) -> None:
    """By the gateway's setting, or by what the client says it waits for: 503, an error event in a stream, and the
    engine is told to stop. What has begun goes on."""
    process = start(*(() if said else ("--begin-s=0.45",)))
    engine = process.engine()
    engine.steps = 0
    whole = process.http.post("/v1/completions", json=BODY, headers=said)
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert "0.45 seconds" in whole.json()["error"]["message"]
    stream = process.http.post("/v1/completions", json=BODY | {"stream": True}, headers=said)
    assert (stream.status_code, "deadline_exceeded" in stream.text) == (200, True)
    wait_for(lambda: len(engine.aborts) == 2, "the aborts")
    engine.steps = 1
    begun = Background(process, headers=said)
    wait_for(lambda: len(engine.requests) == 3, "the third request")
    assert process.http.post("/v1/completions", json=BODY | {"max_tokens": 1}, headers=said).status_code == 200
    time.sleep(0.6)  # longer than a request may wait for the beginning
    engine.steps = None
    assert begun.result().status_code == 200


@pytest.mark.parametrize("said", ["", "0", "-1", "nan", "soon", "inf"])
def test_a_client_may_say_nonsense(start: Start, said: str) -> None:
    """Then the gateway's own bound holds."""
    process = start()
    process.engine()
    headers = {"x-stainless-read-timeout": said}
    assert process.http.post("/v1/completions", json=BODY, headers=headers).status_code == 200
