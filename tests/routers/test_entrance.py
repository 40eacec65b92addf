"""An entrance in front of two real hosts with keys, once with each router: it routes by prompt, and passes all."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.routers.test_routers import MADE, chat
from tests.support.client_environments import client_environment
from tests.support.ports import free_port
from tests.support.stack import Stack
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(480)]
PROGRAMS = {"vllm-router": ("vllm_router", "vllm-router"), "dynamo": ("dynamo", "python")}
CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


@pytest.fixture(params=list(PROGRAMS))
def entrance(
    request: pytest.FixtureRequest, keyed_hosts: tuple[Stack, Stack], tmp_path: Path
) -> Iterator[httpx.Client]:
    """A client of one, with the router's name in front of its prompts."""
    environment, program = PROGRAMS[request.param]
    path, port = client_environment(environment, MADE) / "bin" / program, free_port()
    nodes = [word for host in keyed_hosts for word in ("--node", host.url)]
    command = [sys.executable, "-m", "quire_services.cli", "entrance", *nodes, "--port", str(port)]
    command += ["--router", request.param, "--router-program", str(path), "--router-log", str(tmp_path / "router.log")]
    with (
        (tmp_path / "log").open("wb") as log,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False, headers=key("atlas")) as client,
    ):
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: answers(process, client), "the entrance answers", 120)
            yield client
        finally:
            process.terminate()
            assert process.wait(60) == 0


def answers(process: subprocess.Popen[bytes], client: httpx.Client) -> bool:
    assert process.poll() is None
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def key(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{tenant}-0123456789abcdef"}


def unnamed(body: bytes) -> bytes:
    """An answer without what differs in any two: ids and times."""
    text = re.sub(rb'"id":"[^"]*"', b'"id":""', body)
    return re.sub(rb'"created":\d+', b'"created":0', text)


def cached_tokens(client: httpx.Client, body: dict[str, Any], tenant: str) -> int:
    answer = client.post(CHAT, json=body, headers=key(tenant))
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_an_entrance_routes_and_passes_all(
    entrance: httpx.Client, keyed_hosts: tuple[Stack, Stack], request: pytest.FixtureRequest
) -> None:
    """A prompt goes where its beginning is cached; streams, usage, tools and errors are the node's; another tenant's
    cache is never hit."""
    name = request.node.callspec.id
    places = [cached_tokens(entrance, chat(f"{name} {n}", 0), "atlas") for n in range(4)]
    assert max(places) < 64
    for question in range(1, 3):
        for n in (3, 1, 0, 2):
            assert cached_tokens(entrance, chat(f"{name} {n}", question), "atlas") > 600
    assert cached_tokens(entrance, chat(f"{name} 0", 9), "borea") < 64

    direct = keyed_hosts[0].http
    play = {
        "model": "m",
        "temperature": 0,
        "max_tokens": 64,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [TOOL],
    }
    body = play | {"messages": [{"role": "user", "content": f"{name}: play call."}]}
    for client in (entrance, direct):  # once cold, so that usage is the same
        client.post(CHAT, json=body, headers=key("atlas"))
    both = [client.post(CHAT, json=body, headers=key("atlas")) for client in (entrance, direct)]
    texts = [re.sub(rb'"cached_tokens":\d+', b"", unnamed(answer.content)) for answer in both]
    assert texts[0] == texts[1]
    assert b"get_weather" in texts[0]
    assert both[0].headers["content-type"] == both[1].headers["content-type"]

    wrong: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        (CHAT, chat("x", 1), {"authorization": "Bearer no"}),
        (CHAT, chat("x", 1) | {"temperature": "hot"}, key("atlas")),
        (CHAT, chat("x", 1) | {"model": "other"}, key("atlas")),
        ("/v1/messages", {"model": "m"}, key("atlas")),
        ("/v1/embeddings", {"model": "m"}, key("atlas")),
    ]
    for path, sent, headers in wrong:
        headers = headers | {"x-request-id": "mine"}
        one, other = (client.post(path, json=sent, headers=headers) for client in (entrance, direct))
        assert (one.status_code, one.content) == (other.status_code, other.content)
        assert {n: v for n, v in one.headers.items() if n != "date"} == {
            n: v for n, v in other.headers.items() if n != "date"
        }
