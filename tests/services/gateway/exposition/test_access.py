"""Who may read metrics on the port of the tenants."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from quire_services.gateway.exposition.access import MetricsAccess
from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.http.host_names import HostNames
from tests.support.gateway import Start
from tests.support.waits import wait_for

KEYS = '[[tenants]]\nname = "acme"\nkeys = ["sk-acme"]\n'
CLUSTER = MetricsAccess(("10.1.0.0/16", "::1", "127.0.0.1"), HostNames(("quire.example",)))


def outcome(client: str | None, access: MetricsAccess = CLUSTER, **headers: str) -> str:
    """The code of a refusal; empty if the page may be read."""
    sent = Headers({name.replace("_", "-"): text for name, text in headers.items()})
    try:
        access.insist({"client": None if client is None else (client, 4711)}, sent)
    except ApiError as error:
        return f"{error.code}" if error.status == 403 else f"{error.status}"
    return ""


@pytest.mark.parametrize("near", ["10.1.2.3", "::1", "127.0.0.1", "::ffff:10.1.2.3"])
def test_who_connects_from_a_named_network_may(near: str) -> None:
    """By the address of the connection, written in either family."""
    assert outcome(near) == ""


@pytest.mark.parametrize("far", ["10.2.0.1", "127.0.0.2", "203.0.113.9", "::2", "fe80::1%eth0", "unix", None])
def test_nobody_else_may(far: str | None) -> None:
    """Whatever else an address is, or if there is none; and nobody where no network is named."""
    assert outcome(far) == "metrics_not_allowed"
    assert outcome("127.0.0.1", MetricsAccess((), HostNames())) == "metrics_not_allowed"


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "x_real_ip", "via", "origin"])
def test_what_came_from_elsewhere_is_refused(header: str) -> None:
    """A proxy's address is not its client's, and a web page is no scraper."""
    assert outcome("127.0.0.1", **{header: "127.0.0.1"}) == "metrics_not_allowed"


def test_a_strange_host_is_refused() -> None:
    """A name in the public DNS that its operator did not give; addresses and names without a dot are no such names."""
    assert outcome("10.1.2.3", host="attacker.example") == "host_not_allowed"
    assert [outcome("10.1.2.3", host=host) for host in ("10.1.2.3:8000", "gateway:8000", "quire.example")] == [""] * 3


@pytest.mark.process
def test_metrics_need_no_key_and_a_key_opens_none(start: Start, tmp_path: Path) -> None:
    """From a named network without one; through a proxy not even with one. Scrapes are not in the access log, refusals
    are."""
    config = tmp_path / "quire.toml"
    config.write_text(KEYS)
    gateway = start(config=config)
    forwarded = {"x-forwarded-for": "203.0.113.9", "authorization": "Bearer sk-acme"}

    assert httpx.get(f"{gateway.url}/metrics").status_code == 200
    assert httpx.get(f"{gateway.url}/metrics", headers=forwarded).status_code == 403
    assert httpx.get(f"{gateway.url}/metricsx").status_code == 401
    assert httpx.post(f"{gateway.url}/metrics", json={}).status_code == 405

    def logged() -> list[int]:
        return [line["status"] for line in gateway.lines() if line.get("path") == "/metrics"]

    wait_for(lambda: 405 in logged(), "the last line is written")  # behind the answer
    assert logged() == [403, 405]


@pytest.mark.process
def test_closed_pages_are_not_kept_either(start: Start) -> None:
    """Without networks nobody reads them there, key or not, and the API is served as ever."""
    gateway = start("--metrics-networks=")
    gateway.engine()

    assert gateway.http.get("/metrics").json()["error"]["code"] == "metrics_not_allowed"
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 2}
    assert gateway.http.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize("word", ["everywhere", "10.0.0.1/8", "10.0.0.0/33", "*"])
def test_a_network_that_is_none_is_refused(word: str) -> None:
    """By the word that is wrong; one with bits behind its mask is most likely a mistake."""
    with pytest.raises(ValueError, match=re.escape(word)):
        MetricsAccess((word,), HostNames())
