"""Two nodes of a local Ray cluster, as a user has them: up, asked, up again, scaled, down; one truth, one entrance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.models.tiny import make_model
from quire_services.cluster.declarations.follower import BOUND_S
from quire_services.config.key_digests import key_digest
from tests.support.declared_nodes import declare
from tests.support.gateway import write_tokenizer
from tests.support.ports import free_port
from tests.support.waits import wait_for

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(600)]
NAME = f"test-{os.getpid()}"
KEY = {"authorization": "Bearer sk-acme"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The specification of a cluster that serves; it is down afterwards."""
    folder = tmp_path_factory.mktemp("cluster")
    model = make_model(folder / "model", vocab=320)
    write_tokenizer(model)
    written = folder / "cluster.yaml"
    stack = {"model": str(model), "engines": 1, "blocks": 256, "threads": 1}
    (folder / "store").mkdir()
    store = f"file://{folder / 'store'}"
    (folder / "declared.toml").write_text('[[tenants]]\nname = "acme"\nkeys = ["sk-acme", "sk-old"]\n')
    declare(store, "apply", folder / "declared.toml")
    spec: dict[str, Any] = {"declarations": store, "entrance": {"port": free_port(), "router": "round-robin"}}
    spec |= {"name": NAME, "ray": "local", "nodes": 2, "stack": stack, "resources": {"cpus": 1}, "drain_s": 20}
    written.write_text(json.dumps(spec))  # JSON is YAML
    try:
        told = cluster("up", str(written))
        assert f"2 of 2 nodes serve at http://127.0.0.1:{spec['entrance']['port']}" in told
        yield written
    finally:
        cluster("down", "--file", str(written))


def cluster(*arguments: str) -> str:
    """What ``quire cluster`` prints; it must succeed."""
    command = [sys.executable, "-m", "quire_services.cli", "cluster", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def nodes(file: Path) -> list[dict[str, Any]]:
    """As ``status`` lists them."""
    listed: list[dict[str, Any]] = json.loads(cluster("status", "--json", "--file", str(file)))["nodes"]
    return listed


def ask(url: str) -> dict[str, Any]:
    """A chat's usage."""
    body = {"model": "model", "messages": [{"role": "user", "content": "what is it? " * 20}], "max_tokens": 4}
    answered = httpx.post(f"{url}/v1/chat/completions", json=body, headers=KEY, timeout=60)
    assert answered.status_code == 200, answered.text
    usage: dict[str, Any] = answered.json()["usage"]
    return usage


def test_every_node_is_a_stack_of_its_own(file: Path) -> None:
    """Each answers at its own address, and has in its pool what was computed there alone."""
    serving = nodes(file)
    assert [node["state"] for node in serving] == ["serving"] * 2
    assert len({node["url"] for node in serving}) == 2
    for node in serving:
        first, second = ask(node["url"]), ask(node["url"])
        assert first["prompt_tokens_details"]["cached_tokens"] == 0
        assert second["prompt_tokens_details"]["cached_tokens"] > 0


def test_one_address_and_one_truth(file: Path) -> None:
    """The entrance reaches both nodes with a key that was declared once, and a revoked one is refused behind it."""
    spec = json.loads(file.read_text())
    url = f"http://127.0.0.1:{spec['entrance']['port']}"

    def states() -> dict[str, str]:
        found = httpx.get(f"{url}/health", timeout=30).json()["nodes"]
        return {name: node["state"] for name, node in found.items()}

    wait_for(lambda: states() == {node["name"]: "serving" for node in nodes(file)}, "it has both nodes")
    for _ in range(4):
        ask(url)

    def status(key: str) -> list[int]:
        body, headers = {"model": "model", "prompt": "x", "max_tokens": 1}, {"authorization": f"Bearer {key}"}
        return [httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60).status_code for _ in "ab"]

    assert status("sk-old") == [200, 200]
    assert declare(spec["declarations"], "nodes").count(" joined") == 2
    declare(spec["declarations"], "revoke", f"sha256:{key_digest('sk-old').hex()}")
    wait_for(lambda: status("sk-old") == [401, 401], "a revoked key is refused", BOUND_S)
    assert status("sk-acme") == [200, 200]


def test_up_again_changes_nothing(file: Path) -> None:
    """The same nodes go on."""
    before = {node["name"]: node["url"] for node in nodes(file)}
    assert "2 of 2 nodes serve" in cluster("up", str(file))
    assert {node["name"]: node["url"] for node in nodes(file)} == before


def test_scale_drains_the_newest_node_and_brings_another(file: Path) -> None:
    """One node goes, the other one serves on; then there are two again."""
    kept, gone = sorted(nodes(file), key=lambda node: int(node["name"].rpartition("-")[2]))
    cluster("scale", "1", "--file", str(file))
    (left,) = nodes(file)
    assert (left["name"], left["url"]) == (kept["name"], kept["url"])
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{gone['url']}/health", timeout=10)

    cluster("scale", "2", "--file", str(file))
    for node in nodes(file):
        ask(node["url"])


def test_down_leaves_nothing(file: Path) -> None:
    """No process, no folder, and a second time it has nothing to do."""
    processes = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and ours(path)}
    assert processes
    cluster("down", "--file", str(file))

    assert [pid for pid in processes if Path(f"/proc/{pid}").exists() and ours(Path(f"/proc/{pid}"))] == []
    assert [path.name for path in Path("/tmp").iterdir() if NAME in path.name] == []


def ours(process: Path) -> bool:
    """Whether a process names this cluster."""
    try:
        return NAME.encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False
