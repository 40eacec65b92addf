"""The link's thread of an engine: what breaks it ends the engine, which would be silent for ever otherwise; and what it
says by itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_engine.scheduling import front as front_module
from quire_engine.scheduling.front import Front
from quire_proto.gateway_link import Generate, Hello, Load, Output, Outputs, Received, Sampling, encode_message
from tests.support.waits import wait_for

HELLO = Hello("engine", "model", 512, 320, b"", 1)


class Reports:
    """The load, until memory is short."""

    short = False

    def __call__(self) -> Load:
        if self.short:
            raise MemoryError
        return Load(True, 0, 0, {})


@pytest.fixture
def linked(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Front, Reports, socket.socket]]:
    """A front whose gateway has heard of it; it reports again after so many seconds."""
    monkeypatch.setattr(front_module, "LOAD_PERIOD_S", request.param)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "gateway.sock"))
        listener.listen()
        reports = Reports()
        front = Front(tmp_path / "gateway.sock", HELLO, reports)
        front.start()
        stream, _ = listener.accept()
        with stream:
            assert stream.recv(4096)
            yield front, reports, stream
        front.stop()


def broken(front: Front) -> bool:
    """Whether the engine's thread is told that memory was short."""
    try:
        front.receive(0.05)
    except MemoryError:
        return True
    return False


@pytest.mark.parametrize("linked", [0.02], indirect=True)
def test_a_report_that_fails(linked: tuple[Front, Reports, socket.socket]) -> None:
    """An engine that can report no more ends."""
    front, reports, _ = linked
    assert not broken(front)
    reports.short = True
    wait_for(lambda: broken(front), "it is told")


@pytest.mark.parametrize("linked", [60.0], indirect=True)
def test_an_output_that_cannot_be_written(
    linked: tuple[Front, Reports, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that has lost tokens on their way ends: what it sends next would be taken for them."""
    front, _, _ = linked

    def short(_: Front, data: bytes) -> None:
        raise MemoryError(len(data))

    monkeypatch.setattr(Front, "_write", short)
    front.send(Outputs((Output("request", 0, b"\0\0\0\0"),)))
    wait_for(lambda: broken(front), "it is told")


@pytest.mark.parametrize("linked", [0.02], indirect=True)
def test_the_end_of_a_connection_breaks_nothing(linked: tuple[Front, Reports, socket.socket]) -> None:
    """A gateway that goes away is waited for."""
    front, _, stream = linked
    stream.close()
    for _ in range(20):
        front.send(Outputs((Output("request", 0),)))
        assert not broken(front)


@pytest.mark.parametrize("linked", [60.0], indirect=True)
def test_a_request_is_received_before_it_can_do_harm(linked: tuple[Front, Reports, socket.socket]) -> None:
    """It is said by the link's thread, whatever the engine's does meanwhile."""
    front, _, stream = linked
    request = Generate("one", "tenant", b"\0\0\0\0", Sampling(1))
    stream.sendall(encode_message(request))
    said, expected = b"", encode_message(Received("one"))
    stream.settimeout(20)
    while not said.endswith(expected):
        said += stream.recv(4096)
    assert front.receive(20) == [request]
