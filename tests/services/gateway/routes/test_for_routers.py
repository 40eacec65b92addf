"""What routers ask a gateway for: how busy it is, and where the events of its cache are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import GatewayProcess, Start
from tests.support.kvstore import Kvstore
from tests.support.peer_engine import PeerEngine
from tests.support.waits import wait_for

PATHS = ("/load", "/kv_event_sources", "/get_server_info")
TENANT = '[[tenants]]\nname = "acme"\nkeys = ["sk-acme"]\n'


def server_load(gateway: GatewayProcess) -> int:
    """Requests under way, as it tells."""
    answer = gateway.http.get("/load").json()
    assert set(answer) == {"server_load"}
    return int(answer["server_load"])


def test_load_is_the_requests_under_way(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Each counts from its arrival to its last token."""
    engine.steps = 0
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 2}
    with ThreadPoolExecutor(3) as clients:
        answers = [clients.submit(gateway.http.post, "/v1/completions", json=body) for _ in range(3)]
        wait_for(lambda: server_load(gateway) == 3, "three requests")
        engine.steps = None
        assert [answer.result().status_code for answer in answers] == [200] * 3
    wait_for(lambda: server_load(gateway) == 0, "none")


@pytest.mark.process
def test_sources_are_where_the_kvstore_publishes(start: Start, tmp_path: Path) -> None:
    """As its configuration says, by rank; none without events, 503 without a kvstore. From a network that is named, and
    no key opens it to others."""
    config = tmp_path / "quire.toml"
    config.write_text(TENANT)
    gateway = start(config=config)

    def ask(path: str, **headers: str) -> httpx.Response:
        return httpx.get(gateway.url + path, headers=headers)

    assert [ask(path).status_code for path in PATHS] == [200, 503, 503]
    kvstore = Kvstore(gateway.run_dir, "--events=ipc", "--events-topic=kv@a@tiny").start()
    wait_for(lambda: ask("/kv_event_sources").status_code == 200, "the kvstore answers")
    (source,) = ask("/kv_event_sources").json().items()
    server = ask("/get_server_info").json()
    kvstore.stop()
    assert source[0] == "0"
    assert source[1]["endpoint"] == f"ipc://{gateway.run_dir}/events.sock"
    assert source[1]["replay_endpoint"] == f"ipc://{gateway.run_dir}/events-replay.sock"
    assert (source[1]["topic"], source[1]["publisher"]) == ("kv@a@tiny", "zmq")
    assert (server["kv_block_size"], server["served_model_name"]) == (4, "tiny")
    elsewhere = {"x-forwarded-for": "203.0.113.9", "authorization": "Bearer sk-acme"}
    assert [ask(path, **elsewhere).status_code for path in PATHS] == [403] * 3


@pytest.mark.process
def test_a_kvstore_without_events_has_no_source(start: Start) -> None:
    """An empty answer, and the block size all the same."""
    gateway = start()
    kvstore = Kvstore(gateway.run_dir).start()

    assert gateway.http.get("/kv_event_sources").json() == {}
    assert gateway.http.get("/get_server_info").json()["kv_block_size"] == 4
    kvstore.stop()
