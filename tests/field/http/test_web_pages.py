"""Web pages of others: what a browser may do with the gateway, and what not."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from quire_services.config.settings import Tenant
from quire_services.gateway.api_keys import ApiKeys
from quire_services.gateway.counters import Counters
from quire_services.gateway.edge import Edge
from quire_services.gateway.http.host_names import HostNames
from quire_services.gateway.origin import tenant_resolver, with_origins
from tests.support.http_server import echo, served

APP = "https://app.example"
KEYED = ApiKeys((Tenant("acme", ("sk-one",)),), None)
OPEN = ApiKeys((), None)


def ports(keys: ApiKeys, *origins: str) -> Iterator[str]:
    """The address of an edge around an application that says what it got."""
    edge = Edge(echo, tenant_resolver(keys, HostNames(("quire.example",))), Counters())
    with served(with_origins(edge, origins)) as port:
        yield f"http://127.0.0.1:{port}/v1/chat/completions"


@pytest.fixture(scope="module")
def keyed() -> Iterator[str]:
    """One with keys and an origin."""
    yield from ports(KEYED, APP)


@pytest.fixture(scope="module")
def keyless() -> Iterator[str]:
    """One without either."""
    yield from ports(OPEN)


def preflight(url: str, origin: str) -> httpx.Response:
    """What a browser asks before it posts."""
    wants = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    return httpx.options(url, headers={"origin": origin} | wants)


@pytest.mark.source("vllm-project/vllm#4862", "ggml-org/llama.cpp#6544")
def test_a_page_of_an_allowed_origin_may_ask_without_a_key(keyed: str) -> None:
    """The preflight is answered, the request itself needs the key, and the page may read the answer."""
    asked = preflight(keyed, APP)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, APP)
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()

    headers = {"origin": APP, "authorization": "Bearer sk-one"}
    answer = httpx.post(keyed, json={}, headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert httpx.post(keyed, json={}, headers={"origin": APP}).status_code == 401


@pytest.mark.source("vllm-project/vllm#4862", "ggml-org/llama.cpp#6544")
def test_pages_of_other_origins_may_not(keyed: str, keyless: str) -> None:
    """No other origin is named in an answer; without the setting a preflight is nothing special."""
    for url in (keyed, keyless):
        assert "access-control-allow-origin" not in preflight(url, "https://evil.example").headers
    assert preflight(keyed, "https://evil.example").status_code == 400


@pytest.mark.source("ollama/ollama#17721", "nomic-ai/gpt4all#3587")
def test_a_stranger_s_name_for_the_loopback_is_refused(keyless: str) -> None:
    """Without keys, a page that calls the loopback by a name of its own gets nothing."""
    for host in (
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example.",
    ):
        refused = httpx.post(keyless, json={}, headers={"host": host})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.source("ollama/ollama#17721", "nomic-ai/gpt4all#3587")
def test_names_that_are_ours_are_served(keyless: str, keyed: str) -> None:
    """Addresses, local names and those that the operator named; with keys any name."""
    ours = ("localhost:8000", "LOCALHOST", "a.localhost", "127.0.0.1", "10.1.2.3:80", "[::1]:8000", "gateway:8000")
    for host in (*ours, "Quire.Example:443"):
        assert httpx.post(keyless, json={}, headers={"host": host}).status_code == 200
    named = {"host": "any.example", "authorization": "Bearer sk-one"}
    assert httpx.post(keyed, json={}, headers=named).status_code == 200


@pytest.mark.source("found in our own trials")
def test_bodies_are_plain(keyless: str) -> None:
    """A compressed body is answered 415; HEAD is GET without a body."""
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    assert httpx.post(keyless, content=b"x", headers=headers).json()["error"]["code"] == "unsupported_content_encoding"
    head = httpx.head(keyless)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "25")
