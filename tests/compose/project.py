"""The stack of compose.yaml as its user starts it, under a project name, a port and an environment of its own."""

from __future__ import annotations

import ast
import contextlib
import functools
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.compose.container_engine import ContainerEngine
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.waits import wait_for

READY_S = 240.0
ASKED: dict[str, Any] = {"model": "demo", "temperature": 0, "max_tokens": 24, "ignore_eos": True}


@dataclass
class Project:
    """A running stack.

    Attributes:
        name: of the compose project.
        port: of its API on this machine.
        recovered: rows of the table that a run ends with: what happened, and how long it took.
    """

    engine: ContainerEngine
    name: str = "quire-test"
    port: int = field(default_factory=free_port)
    recovered: list[tuple[str, str]] = field(default_factory=list)

    def compose(self, *arguments: str, files: tuple[str, ...] = ("compose.yaml",), **variables: str) -> str:
        """Run docker compose on the clone, with nothing set but the port and ``variables``."""
        environ = {"PORT": str(self.port), **variables}
        named = [part for file in files for part in ("--file", str(ROOT / file))]
        engine = ContainerEngine({**self.engine.environ, **environ}, self.engine.base)
        return engine.docker("compose", "--project-name", self.name, *named, *arguments)

    def build(self, folder: Path) -> None:
        """Build all images, as one does behind a proxy where the engine is our own."""
        if not self.engine.base:
            self.compose("build")
            return
        with pip_sources(folder) as config:
            self.compose(
                "build",
                files=("compose.yaml", "compose.build.yaml"),
                BASE=self.engine.base,
                TORCH_INDEX="",
                BUILD_NETWORK="host",
                PIP_CONFIG_FILE=str(config),
                CA_BUNDLE="/etc/ssl/certs/ca-certificates.crt",
            )

    def container(self, service: str) -> str:
        """The id of a service's first container."""
        return self.compose("ps", "--quiet", service).splitlines()[0]

    def process(self, service: str) -> int:
        """The pid, on this machine, of the process that a service's first container is for."""
        init = int(self.engine.docker("inspect", "--format", "{{.State.Pid}}", self.container(service)))
        return int(Path(f"/proc/{init}/task/{init}/children").read_text().split()[0])

    def kill(self, service: str) -> None:
        """SIGKILL to that process. Docker takes its own kill for the user's wish, and starts nothing again after it."""
        os.kill(self.process(service), signal.SIGKILL)

    def ask(self, prompt: str, timeout: float = 60) -> dict[str, Any]:
        """A chat's whole answer; raises httpx.HTTPError."""
        body = ASKED | {"messages": [{"role": "user", "content": prompt}]}
        response = httpx.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body, timeout=timeout)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def answers(self, prompt: str = "w1 w2") -> bool:
        """Whether it answers now."""
        with contextlib.suppress(httpx.HTTPError):
            return bool(self.ask(prompt, timeout=20)["choices"])
        return False

    def back_after(self, what: str, seconds: float = READY_S) -> float:
        """Wait until a request that was begun after now is answered; the seconds, which become a row of the table."""
        began = time.monotonic()
        wait_for(self.answers, f"an answer after: {what}", seconds)
        took = time.monotonic() - began
        self.recovered.append((what, f"{took:.1f} s"))
        return took

    def engines(self) -> set[str]:
        """The engines that the gateway can give work."""
        listed = self.compose("exec", "-T", "gateway", "quire", "engines", "--admin-port", "8001")
        return {line.split()[0] for line in listed.splitlines() if line.startswith("engine-") and " ready" in line}

    @contextlib.contextmanager
    def load(self, clients: int = 4) -> Iterator[list[str]]:
        """Clients that ask one thing after the other meanwhile; yields what failed, complete when it is left."""
        failed: list[str] = []
        over = threading.Event()

        def client(number: int) -> None:
            asked = 0
            while not over.is_set():
                asked += 1
                try:
                    answer = self.ask(f"w{number} w{asked % 400} w7")
                    if answer["usage"]["completion_tokens"] != ASKED["max_tokens"]:
                        failed.append(f"a short answer: {answer['usage']}")
                except httpx.HTTPError as error:
                    failed.append(f"{type(error).__name__}: {error}")
                    over.wait(0.2)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield failed
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def left(self) -> str:
        """Containers, volumes and networks of the project."""
        label = f"--filter=label=com.docker.compose.project={self.name}"
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return "\n".join(filter(None, (self.engine.docker(*kind, "--quiet", label) for kind in kinds)))


@contextlib.contextmanager
def pip_sources(folder: Path) -> Iterator[Path]:
    """A pip.conf for builds that says what this machine's pip is configured with, its folders of wheels over HTTP."""
    folders = [Path(path) for path in _find_links() if Path(path).is_dir()]
    servers = [_served(path) for path in folders]
    links = "\n    ".join(f"http://127.0.0.1:{server.server_port}/" for server in servers)
    config = folder / "pip.conf"
    config.write_text(f"[global]\nfind-links =\n    {links}\ntrusted-host = 127.0.0.1\n" if links else "")
    try:
        yield config
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _find_links() -> list[str]:
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    values = [line.partition("=") for line in listed.stdout.splitlines()]
    return [
        path for name, _, value in values if name.endswith(".find-links") for path in ast.literal_eval(value).split()
    ]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _served(folder: Path) -> http.server.ThreadingHTTPServer:
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
