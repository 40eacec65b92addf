"""Fixtures of the tests of the gateway: the common one, engines and clients of it, and gateways of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.gateway import GatewayProcess, Start
from tests.support.gateway_fixtures import gateway, model, tokenizer
from tests.support.peer_engine import PeerEngine
from tests.support.puppet_stage import puppet, stage
from tests.support.waits import wait_for

__all__ = ["gateway", "model", "puppet", "stage", "tokenizer"]  # fixtures


@pytest.fixture
def engine(gateway: GatewayProcess) -> Iterator[PeerEngine]:
    """A test engine at the common gateway, gone after the test."""
    peer = gateway.engine()
    yield peer
    peer.close()
    wait_for(lambda: gateway.health()["engines"]["connected"] == 0, "the engine is gone")


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    """The official client, without its own retries."""
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="any", max_retries=0, timeout=20) as it:
        yield it


@pytest.fixture
def start(model: Path) -> Iterator[Start]:
    """Start gateways of a test's own."""
    started: list[GatewayProcess] = []

    def begin(*arguments: str, config: Path | None = None) -> GatewayProcess:
        started.append(GatewayProcess(model, *arguments, config=config))
        return started[-1].wait()

    yield begin
    for process in started:
        process.stop()
