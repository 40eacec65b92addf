"""Engines come, go, fall silent and share the work; health says so at every moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from quire_proto.gateway_link import Hello, decode_message, encode_message
from tests.support.gateway import GatewayProcess, Start, refused
from tests.support.peer_engine import PeerEngine, connect
from tests.support.waits import wait_for

BODY: dict[str, Any] = {"model": "tiny", "prompt": "the quick fox", "max_tokens": 400}


class Background:
    """A request in a thread of its own."""

    def __init__(self, gateway: GatewayProcess, headers: Mapping[str, str] | None = None, **changes: Any) -> None:
        self.response: httpx.Response | None = None
        self._thread = threading.Thread(target=self._run, args=(gateway, BODY | changes, headers), daemon=True)
        self._thread.start()

    def _run(self, gateway: GatewayProcess, body: dict[str, Any], headers: Mapping[str, str] | None) -> None:
        with contextlib.suppress(httpx.HTTPError):  # the gateway may be gone: then there is no response
            self.response = gateway.http.post("/v1/completions", json=body, headers=headers)

    def result(self) -> httpx.Response:
        """The response, when it is there."""
        self._thread.join(30)
        assert self.response is not None
        return self.response


def test_health_follows_the_engines(gateway: GatewayProcess) -> None:
    """503 with the reason without engines, 200 with one that is ready, 503 when it is not, 200 when it is again."""

    def status() -> tuple[int, str]:
        response = gateway.http.get("/health")
        return response.status_code, response.json().get("reason", "")

    assert status() == (503, "no engine is connected")
    engine = gateway.engine()
    assert status() == (200, "")
    engine.load(ready=False)
    wait_for(lambda: status() == (503, "no engine is ready: peer-1 is without a kvstore"), "health to say so")
    engine.load(ready=True)
    wait_for(lambda: status() == (200, ""), "health to recover")
    engine.close()
    wait_for(lambda: status() == (503, "no engine is connected"), "health to see the end")


def test_without_an_engine_requests_are_answered_503_at_once(gateway: GatewayProcess) -> None:
    """503 with Retry-After, in the error shape."""
    response = gateway.http.post("/v1/completions", json=BODY, timeout=2)

    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert 5000 <= int(response.headers["retry-after-ms"]) <= 7500
    assert response.json()["error"]["message"] == "no engine is connected"


def test_an_engine_that_dies_before_the_first_token_is_503(gateway: GatewayProcess) -> None:
    """Nothing was sent yet, so the client gets a status and can try again."""
    engine = gateway.engine()
    engine.steps = 0
    waiting = [Background(gateway, stream=stream) for stream in (False, True)]
    wait_for(lambda: len(engine.requests) == 2, "both requests")
    engine.close()

    for one in waiting:
        assert one.result().status_code == 503
        assert one.result().headers["retry-after"] == "1"


def test_an_engine_takes_no_request_with_it(gateway: GatewayProcess) -> None:
    """The other engine finishes its own and that of the one that died."""
    engines = [gateway.engine(f"peer-{number}") for number in (1, 2)]
    for engine in engines:
        engine.steps = 3
    waiting = [Background(gateway), Background(gateway)]
    wait_for(lambda: all(len(engine.requests) == 1 for engine in engines), "one request each")
    engines[0].close()
    engines[1].steps = None

    assert [one.result().status_code for one in waiting] == [200, 200]
    engines[1].close()


def test_the_least_loaded_engine_is_chosen(gateway: GatewayProcess) -> None:
    """Reported load and what was sent since decide; a burst spreads before any report comes."""
    busy, idle = (gateway.engine(name) for name in ("busy", "idle"))
    busy.load(ready=True, running=3, waiting=1)
    idle.steps = busy.steps = 0
    # A request over this connection is read after the report above; both are local and the report is older.
    wait_for(lambda: gateway.health()["engines"]["ready"] == 2, "both")
    waiting = [Background(gateway) for _ in range(8)]
    wait_for(lambda: len(busy.requests) + len(idle.requests) == 8, "all requests")
    assert (len(busy.requests), len(idle.requests)) == (2, 6)
    busy.steps = idle.steps = None
    assert all(one.result().status_code == 200 for one in waiting)
    names = [one.result().headers["x-quire-engine"] for one in waiting]
    assert (names.count("busy"), names.count("idle")) == (2, 6)
    for engine in (busy, idle):
        engine.close()


@pytest.mark.parametrize(
    "wide", [{"n": 6}, {"best_of": 6}, {"use_beam_search": True, "n": 6}, {"use_beam_search": True, "best_of": 6}]
)
def test_a_request_weighs_as_many_as_are_worked_on(gateway: GatewayProcess, wide: dict[str, Any]) -> None:
    """All continuations and all beams, also those that are not answered with, before any report of it comes."""
    engines = [gateway.engine(name) for name in ("first", "second")]
    for engine in engines:
        engine.steps = 0
    waiting = [Background(gateway, **wide)]
    wait_for(lambda: any(engine.requests for engine in engines), "the wide one is there")
    loaded, other = sorted(engines, key=lambda engine: -len(engine.requests))
    waiting += [Background(gateway) for _ in range(6)]
    wait_for(lambda: len(loaded.requests) + len(other.requests) == 7, "all requests")
    assert (len(loaded.requests), len(other.requests)) == (1, 6)
    for engine in engines:
        engine.steps = None
    assert all(one.result().status_code == 200 for one in waiting)
    for engine in engines:
        engine.close()


def test_a_silent_engine_gets_no_work(gateway: GatewayProcess) -> None:
    """Ten seconds without a load report and it counts as unresponsive, until it speaks again."""
    engine = gateway.engine()
    engine.beats = False
    wait_for(lambda: gateway.health()["status"] == "unavailable", "it to count as unresponsive", 15)
    assert gateway.health()["reason"] == "no engine is ready: peer-1 is unresponsive"
    engine.load(ready=True)
    wait_for(lambda: gateway.health()["status"] == "ok", "it to count again")
    engine.close()


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x03\x00\x00\x00abc", b"\x01\x00\x00\x00"])
def test_bytes_that_are_not_the_link_close_only_that_connection(
    gateway: GatewayProcess, engine: PeerEngine, data: bytes
) -> None:
    """A broken peer is dropped; the engines beside it go on."""
    with connect(gateway.run_dir / "gateway.sock") as stream:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        assert stream.recv(1) == b""
    assert gateway.health()["engines"] == {"connected": 1, "ready": 1}


def test_an_engine_with_another_model_is_refused(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Two models behind one name would answer by chance."""
    with connect(gateway.run_dir / "gateway.sock") as stream:
        stream.sendall(encode_message(Hello("stranger", "another", 512, 320, b"", 1)))
        refused = stream.makefile("rb").read()
        assert "peer-1 serves" in decode_message(refused[4:]).reason  # type: ignore[union-attr]
    assert gateway.health()["engines"]["connected"] == 1


def test_a_second_gateway_does_not_steal_the_socket(start: Start, model: Any) -> None:
    """It ends with a clear error; the first goes on."""
    first = start()
    assert "another gateway listens" in refused(model, "--run-dir", str(first.run_dir))
    first.engine()
