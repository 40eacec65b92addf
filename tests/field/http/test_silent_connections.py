"""Connections that say nothing, too much or do not listen: they cost little and keep no other client out."""

from __future__ import annotations

import time

import pytest

from quire_services.gateway.http import protocol as http_protocol
from quire_services.gateway.http.connections import most_connections
from tests.support.http_server import JSON, RawConnection, echo, flood, post, served


@pytest.mark.source("vllm-project/vllm#23267", "Kludex/uvicorn#157")
@pytest.mark.parametrize(
    "flood_of",
    [b"X: " + b"a" * 10_000_000, b"".join(b"x-%d: 1\r\n" % n for n in range(1_000)), b"x-a: 1\r\n" * 1_000_000],
    ids=["one long header", "many headers", "headers without end"],
)
def test_a_head_is_bounded(flood_of: bytes) -> None:
    """Headers beyond the bound are answered 431 while they come, before they are kept."""
    with served(echo) as port, RawConnection(port, b"GET / HTTP/1.1\r\nhost: x\r\n" + flood_of[:70_000]) as wire:
        answer = wire.rest()
        wire.say(flood_of)

    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.source("vllm-project/vllm#23267", "Kludex/uvicorn#157")
@pytest.mark.parametrize(
    "rest", [b"a" * 60_000, b"a" * 8_192 + b" HTTP/1.1\r\nhost: x\r\n\r\n"], ids=["endless", "whole"]
)
def test_a_target_is_bounded(rest: bytes) -> None:
    """A path beyond the bound is answered 414 while it comes; one that is as long as allowed is served."""
    with served(echo) as port:
        with RawConnection(port, b"GET /" + rest) as wire:
            assert wire.rest().startswith(b"HTTP/1.1 414 ")
        with RawConnection(
            port, b"GET /" + b"a" * 8_191 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ) as wire:
            assert wire.rest().startswith(b"HTTP/1.1 200 ")


@pytest.mark.source("xorbitsai/inference#5213")
def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a request is closed; half a head and half a body are answered 408."""
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.2)
    monkeypatch.setattr(http_protocol, "BODY_S", 0.2)
    with served(echo) as port:
        with RawConnection(port) as wire:
            assert wire.rest() == b""
        with RawConnection(port, b"GET / HTTP/1.1\r\nhost:") as wire:
            assert wire.rest().startswith(b"HTTP/1.1 408 ")
        with RawConnection(port, post(b"/", b"abc")[:-1]) as wire:
            assert wire.rest().startswith(b"HTTP/1.1 408 ")


@pytest.mark.source("xorbitsai/inference#5213")
def test_a_body_that_goes_on_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the time between two pieces, not the whole."""
    monkeypatch.setattr(http_protocol, "BODY_S", 0.5)
    with served(echo) as port, RawConnection(port, post(b"/", b"x" * 100)[:-100]) as wire:
        for _ in range(8):
            time.sleep(0.1)  # a client that is slow, longer than BODY_S in all
            wire.say(b"x")
        wire.say(b"x" * 92)
        assert wire.answer()[::2] == (200, b"POST / " + b"x" * 100)


@pytest.mark.source("xorbitsai/inference#5213", "Kludex/uvicorn#1192")
def test_silent_connections_make_room() -> None:
    """With all places taken by silence, the longest silent one is closed for each that comes; work is not."""
    with served(echo, most=5) as port, RawConnection(port, post(b"/", b"abc")[:-1]) as at_work:
        silent = [RawConnection(port, b"GET / HT" if n % 2 else b"") for n in range(20)]
        for _ in range(3):
            with RawConnection(port, post(b"/", b"hello")) as wire:
                assert wire.answer()[::2] == (200, b"POST / hello")
        at_work.say(b"c")
        assert at_work.answer()[::2] == (200, b"POST / abc")
        assert silent[0].rest() == b""
        for wire in silent:
            wire.socket.close()


@pytest.mark.source("xorbitsai/inference#5213")
def test_without_room_a_connection_is_refused() -> None:
    """If all are at work the next is answered 503, and the limit of files leaves some for the rest."""
    with served(echo, most=1) as port, RawConnection(port, post(b"/", b"abc")[:-1]) as at_work:
        at_work.say(b"")
        with RawConnection(port) as wire:
            assert wire.rest().startswith(b"HTTP/1.1 503 ")
        at_work.say(b"c")
        assert at_work.answer()[0] == 200
    assert (most_connections(0, 1 << 20), most_connections(0, 1024), most_connections(200, 1024)) == (4096, 896, 200)


@pytest.mark.source("OpenCTI-Platform/opencti#13908")
def test_a_client_that_does_not_read_is_cut_off() -> None:
    """No progress for the write timeout ends the connection."""
    with (
        served(flood, write_s=0.3) as port,
        RawConnection(port, b"GET / HTTP/1.1\r\n" + JSON + b"\r\n", buffer=4096) as wire,
    ):
        began = time.monotonic()
        while time.monotonic() < began + 15:
            time.sleep(0.1)
            try:
                wire.socket.send(b"x")  # fails once the other side has gone
            except OSError:
                break

    assert time.monotonic() - began < 10
