"""Streams that wait: headers come at once, and a sign of life while nothing else is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import GatewayProcess
from tests.support.peer_engine import PeerEngine
from tests.support.waits import wait_for

BODY: dict[str, Any] = {"model": "tiny", "prompt": "the quick fox", "max_tokens": 6}
PING = ": ping"


@pytest.fixture(scope="module")
def gateway(model: Any) -> Iterator[GatewayProcess]:
    """One that says something after 0.3 seconds of silence."""
    process = GatewayProcess(model, "--ping-s=0.3", "--hold-s=0").wait()
    yield process
    assert process.stop() == 0


@pytest.fixture
def engine(gateway: GatewayProcess) -> Iterator[PeerEngine]:
    """An engine that has not begun."""
    peer = gateway.engine()
    peer.steps = 0
    yield peer
    peer.close()
    wait_for(lambda: gateway.health()["engines"]["connected"] == 0, "the engine is gone")


def blocks(response: httpx.Response) -> Iterator[str]:
    """What stands between blank lines: an event or a comment each."""
    text = ""
    for piece in response.iter_text():
        *whole, text = (text + piece).split("\n\n")
        yield from whole
    assert text == ""


@pytest.mark.source("BerriAI/litellm#34819", "BerriAI/litellm#34374", "vllm-project/vllm#47647")
def test_a_stream_that_waits_has_headers_and_comments(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Before the first token and between two, each silence is filled; comments stand between events, never in one."""
    said = []
    with gateway.http.stream("POST", "/v1/completions", json=BODY | {"stream": True}, timeout=10) as response:
        assert (response.status_code, engine.requests[0].n) == (200, 1)
        for block in blocks(response):
            said.append(block)
            if block == PING:
                engine.steps = {0: 2, 2: None}.get(engine.steps or 0)

    events = [block for block in said if block != PING]
    assert said[0] == PING
    assert PING in said[said.index(events[0]) : said.index(events[2])]
    assert events.pop() == "data: [DONE]"
    texts = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events]
    assert "".join(texts) == gateway.http.post("/v1/completions", json=BODY).json()["choices"][0]["text"]


@pytest.mark.source("BerriAI/litellm#34374", "vllm-project/vllm#47647")
def test_the_official_client_skips_comments(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """It gives the chunks and the text that it gives of a stream without a pause."""
    threading.Timer(1.0, setattr, (engine, "steps", None)).start()
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="any", max_retries=0, timeout=10) as client:
        paused = list(client.completions.create(**BODY, stream=True))
        at_once = list(client.completions.create(**BODY, stream=True))

    assert [chunk.choices[0].text for chunk in paused] == [chunk.choices[0].text for chunk in at_once]


@pytest.mark.source("BerriAI/litellm#37322")
def test_what_fails_after_the_headers_is_an_event(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """The status has been sent: the official client raises the error that the stream carries."""
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="any", max_retries=0, timeout=10) as client:
        stream = client.completions.create(**BODY, stream=True)
        engine.fail_all("no_space", "the tenant's limit is reached")
        with pytest.raises(openai.APIError, match="limit is reached") as caught:
            list(stream)
    assert caught.value.code == "tenant_limit"


@pytest.mark.source("BerriAI/litellm#37322")
def test_what_is_refused_at_once_has_its_status(gateway: GatewayProcess) -> None:
    """Streams that cannot begin are answered with a status, as ever."""
    for body, status in ((BODY, 503), (BODY | {"n": 0}, 400), (BODY | {"model": "other"}, 404)):
        assert gateway.http.post("/v1/completions", json=body | {"stream": True}).status_code == status
