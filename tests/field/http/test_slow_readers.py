"""Clients that read slowly or not at all: what waits for them is bounded, and costs no other client anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.http_server import RawConnection, post
from tests.support.peer_engine import PeerEngine
from tests.support.waits import wait_for

MIB = 1 << 20
BOUND = 64 * MIB
WIDE: dict[str, Any] = {"model": "tiny", "prompt": "the quick fox", "n": 64, "stream": True}


@pytest.fixture(scope="module")
def gateway(model: Any) -> Iterator[GatewayProcess]:
    process = GatewayProcess(model).wait()
    yield process
    assert process.stop() == 0


@pytest.fixture
def engine(gateway: GatewayProcess) -> Iterator[PeerEngine]:
    peer = gateway.engine(max_model_len=8192)
    yield peer
    peer.close()
    wait_for(lambda: gateway.health()["engines"]["connected"] == 0, "the engine is gone")


def unread(gateway: GatewayProcess, **fields: Any) -> RawConnection:
    """A stream that is asked for and not read."""
    return RawConnection(gateway.port, post(b"/v1/completions", json.dumps(WIDE | fields).encode()), buffer=4096)


def peak(gateway: GatewayProcess) -> int:
    """The most memory that the gateway ever had, in bytes."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) * 1024


def events(wire: RawConnection) -> list[str]:
    """The events of a stream that is read after all."""
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        piece = wire.socket.recv(MIB)
        assert piece, "the stream has no end"
        data += piece
    return re.findall(r"^data: (.*)$", data.decode(), re.MULTILINE)


@pytest.mark.source("anomalyco/opencode#19423")
def test_a_client_that_pauses_loses_nothing(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Text that waits is joined: 64,000 tokens of an unread answer take little, and come when it is read."""
    before = peak(gateway)
    with unread(gateway, max_tokens=1000) as wire:
        wait_for(lambda: bool(engine.requests) and not engine.busy(), "all is generated", 60)
        texts = [""] * 64
        for event in events(wire)[:-1]:
            choice = json.loads(event)["choices"][0]
            texts[choice["index"]] += choice["text"]
    whole = gateway.http.post("/v1/completions", json=WIDE | {"stream": False, "n": 1, "max_tokens": 1000}).json()

    assert texts[0] == whole["choices"][0]["text"]
    assert {len(text) for text in texts} <= {len(texts[index]) for index in range(3)}
    assert peak(gateway) - before < 8 * MIB


@pytest.mark.slow
@pytest.mark.source("OpenCTI-Platform/opencti#13908", "IBM/mcp-context-forge#1682")
def test_answers_that_are_not_read_take_bounded_memory(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """The longest one ends with an error before all are larger than the bound; a client that reads is not concerned."""
    before = peak(gateway)
    fields = {"max_tokens": 7000, "logprobs": 5}
    with unread(gateway, **fields) as first, unread(gateway, **fields) as second:
        wait_for(lambda: bool(engine.aborts), "one is given up", 60)
        answer = gateway.http.post("/v1/completions", json=WIDE | {"stream": False, "n": 1, "max_tokens": 5})
        grown = peak(gateway) - before
        given_up = [request.request for request in engine.requests].index(engine.aborts[0].request)
        last = json.loads(events((first, second)[given_up])[-1])

    assert answer.status_code == 200
    assert last["error"]["code"] == "answer_unread"
    assert grown < BOUND * 1.5
