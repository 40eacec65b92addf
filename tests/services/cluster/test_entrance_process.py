"""The entrance of a cluster: it follows the controller's nodes, is started again, and leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from quire_services.cluster.entrance_process import EntranceProcess
from quire_services.cluster.nodes import DRAINING, SERVING, STARTING, ClusterNode
from quire_services.cluster.stack_order import EntranceOrder
from tests.support.entrance import Asked, WrittenNode
from tests.support.http_server import served
from tests.support.ports import free_port
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(200)]
CHAT, BODY = "/v1/chat/completions", {"model": "m", "messages": list[Any]()}


async def answers(asked: Asked) -> None:
    """200."""
    await asked.whole(200, b"{}")


def test_it_follows_the_nodes_and_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing runs before a node serves; a draining node gets nothing new; a killed one is back; it leaves nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, right = WrittenNode(answers), WrittenNode(answers)
    it = EntranceProcess("t", EntranceOrder("127.0.0.1", free_port(), "round-robin", ""))
    with served(left) as left_port, served(right) as right_port:
        a = ClusterNode("a", f"http://127.0.0.1:{left_port}", "", SERVING)
        b = ClusterNode("b", f"http://127.0.0.1:{right_port}", "", SERVING)

        def up(*nodes: ClusterNode) -> bool:
            it.keep(nodes)
            return it.up

        assert not up(ClusterNode("a", "", "", STARTING))
        assert it._process is None
        wait_for(lambda: up(a, b), "it answers", 60)
        with httpx.Client(base_url=it.url, timeout=30, trust_env=False) as client:

            def states() -> dict[str, str]:
                found = client.get("/health").json()["nodes"]
                return {name: node["state"] for name, node in found.items()}

            assert states() == {"a": "serving", "b": "serving"}
            it.keep([ClusterNode("a", a.url, "", DRAINING), b, ClusterNode("c", "", "", DRAINING)])
            wait_for(lambda: states()["a"] == "draining", "it has read the list")
            before = left.served(CHAT)
            for _ in range(4):
                assert client.post(CHAT, json=BODY).status_code == 200
            assert (left.served(CHAT), right.served(CHAT)) == (before, 4)

        assert it._process is not None
        it._process.kill()
        it._process.wait()
        assert not up(a, b)
        wait_for(lambda: up(a, b), "it is back", 60)
        it.stop()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{it.url}/health", trust_env=False)
    assert list(tmp_path.iterdir()) == []


def test_it_says_why_it_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A router whose program is not there is named, for whoever asks how the cluster is."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    it = EntranceProcess("t", EntranceOrder("127.0.0.1", free_port(), "vllm-router", str(tmp_path / "none")))

    def said() -> str:
        it.keep([ClusterNode("a", f"http://127.0.0.1:{free_port()}", "", SERVING)])
        return it.reason

    assert wait_for(said, "it says why", 60).endswith("none: no program that can be run")
    assert not it.up
    it.stop()
