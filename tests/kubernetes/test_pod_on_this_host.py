"""What the manifest starts, started here: its container's arguments and environment, its probes, its way to end.

Paths are a test's own, ports are free ones, and the pool is small; everything else is as the manifest says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import zmq

from bench.models.tiny import make_model
from tests.kubernetes.test_manifests import pod
from tests.support.kustomization import Object
from tests.support.ports import free_port
from tests.support.waits import wait_for

KEY = "sk-of-the-test"
TOKENS = 300
pytestmark = pytest.mark.process


class Pod:
    """The container of the base's pod, as processes of this host."""

    def __init__(self, folder: Path) -> None:
        self.spec = pod("base")
        (self.container,) = self.spec["containers"]
        self.port, self.events, admin = free_port(), free_port(), free_port()
        self._ports = {"8000": str(self.port), "5557": str(self.events), "8001": str(admin)}
        self._places = {one["mountPath"]: folder / one["name"] for one in self.container["volumeMounts"]}
        del self._places["/dev/shm"], self._places["/tmp"]
        for place in self._places.values():
            place.mkdir()
            place.chmod(0o777)  # as volumes are
        make_model(self._places["/models/model"])
        (self._places["/etc/quire"] / "quire.toml").write_text("")
        keys = self._places["/etc/quire-keys"] / "keys.toml"
        keys.write_text(f'[[tenants]]\nname = "a"\nkeys = ["{KEY}"]\n')
        keys.chmod(0o600)
        self.log = folder / "log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("quire"), *self.container["args"]],
                env=self._environment(),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def probe(self, name: str) -> bool:
        """Whether a probe of the manifest succeeds."""
        probe: Object = self.container[name]
        if "exec" in probe:
            command = [sys.executable if word == "python3" else self._here(word) for word in probe["exec"]["command"]]
            return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
        wanted = probe["httpGet"]
        assert wanted["port"] == "http"
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{wanted['path']}", trust_env=False, timeout=60).is_success
        except httpx.TransportError:
            return False

    def stream(self, begun: list[str]) -> str | None:
        """One answer, streamed; why it ended. Its parts go to ``begun`` as they come."""
        body = {
            "model": "model",
            "prompt": [1, 2, 3],
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "stream": True,
            "temperature": 0,
        }
        finish = None
        with httpx.stream("POST", self.url("/v1/completions"), json=body, headers=self.key, timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    begun.append(choice["text"])
                    finish = choice["finish_reason"]
        return finish

    @property
    def key(self) -> dict[str, str]:
        """What names the tenant."""
        return {"authorization": f"Bearer {KEY}"}

    def url(self, path: str) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}{path}"

    def _environment(self) -> dict[str, str]:
        told = {one["name"]: one.get("value", "127.0.0.1") for one in self.container["env"]}  # what has none is POD_IP
        told = {name: self._here(value.replace("$(POD_IP)", told["POD_IP"])) for name, value in told.items()}
        smaller = {"QUIRE_KVSTORE_KV_GIB": "0", "QUIRE_KVSTORE_BLOCKS": "256", "QUIRE_GATEWAY_PORT": str(self.port)}
        own = {name: value for name, value in os.environ.items() if not name.startswith("QUIRE_")}
        return {**own, **told, **smaller}

    def _here(self, text: str) -> str:
        for there, here in sorted({**self._places, **self._ports}.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(there, str(here))
        return text


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Pod]:
    """A pod that is up."""
    one = Pod(tmp_path)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.terminate()
        one.process.wait(60)


def test_a_pod_begins_serves_and_ends_as_its_manifest_says(running: Pod) -> None:
    """It is alive before it is ready; then it answers, tells what it has; and when it is told to end it is not ready
    any more, finishes what it had begun, and ends by itself within the grace."""

    def ready() -> bool:
        assert running.process.poll() is None, running.log.read_text()[-3000:]
        return running.probe("startupProbe")

    with zmq.Context() as context, context.socket(zmq.SUB) as events:
        events.linger = 0
        events.connect(f"tcp://127.0.0.1:{running.events}")
        events.subscribe(b"kv@127.0.0.1@model")
        wait_for(ready, "the startup probe succeeds", 120)
        assert running.probe("readinessProbe")
        assert running.probe("livenessProbe")
        assert httpx.get(running.url("/v1/models"), trust_env=False).status_code == 401
        assert "vllm:num_requests_running" in httpx.get(running.url("/metrics"), trust_env=False).text
        undisturbed: list[str] = []
        assert running.stream(undisturbed) == "length"
        assert events.poll(20_000), "blocks of the answer are announced"

    subprocess.run(running.container["lifecycle"]["preStop"]["exec"]["command"], check=True)
    assert running.probe("readinessProbe"), "who has not heard of it yet is served"
    begun: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(running.stream, begun)
        wait_for(lambda: len(begun) > 3, "the stream has begun")
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not running.probe("readinessProbe"), "it is not ready any more")
        assert answer.result(120) == "length"
    assert "".join(begun) == "".join(undisturbed), "all of it"
    assert running.process.wait(running.spec["terminationGracePeriodSeconds"]) == 0
    assert not running.probe("livenessProbe")
