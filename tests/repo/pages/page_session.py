"""A reader who follows pages: a shell in an empty folder, a home of its own, and ports in place of the pages'.

Owns what a page's commands are given: the model that `make demo` leaves in the cache (here a tiny random one under its
name), the kernels that are compiled already, ports that are free. A `serve` block becomes a running stack; a page that
starts none finds one, the same as the page before it. `curl` fails here on any status that is an error, which a reader
would see.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import httpx

from tests.repo.pages.commands import Block
from tests.support.ports import free_port
from tests.support.waits import wait_for

MODEL = "SmolLM2-135M-Instruct"
DEFAULT_STACK = "quire serve --model ~/.cache/quire/models/" + MODEL + " --engines 2 --admin-port 8001"
START_S, BLOCK_S, STOP_S = 120.0, 300, 60.0
PRELUDE = 'set -euo pipefail\ncurl() { command curl --no-progress-meter --fail-with-body --max-time 120 "$@"; }\n'


class PageSession:
    """Page after page.

    Args:
        folder: empty; the home and the working directories lie in it.
        model: what stands for the model of the pages.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder, self._log = folder, folder / "serve.log"
        home = folder / "home"
        cache = home / ".cache" / "quire"
        (cache / "models").mkdir(parents=True)
        cache.chmod(0o700)
        (cache / "models" / MODEL).symlink_to(model)
        for library in (Path.home() / ".cache" / "quire").glob("*.so"):
            (cache / library.name).write_bytes(library.read_bytes())
            (cache / library.name).chmod(0o755)
        self._ports = {port: str(free_port()) for port in ("8000", "8001", "5557")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUIRE_", "XDG_"))}
        self._env = {
            **kept, "HOME": str(home), "PATH": path, "QUIRE_GATEWAY_PORT": self._ports["8000"], "NO_PROXY": "127.0.0.1",
            "QUIRE_ENGINE_THREADS": "1", "QUIRE_SERVE_LOG_FORMAT": "console", "no_proxy": "127.0.0.1,localhost",
        }  # fmt: skip
        self._stack: subprocess.Popen[bytes] | None = None
        self._served, self._work = "", folder

    def __enter__(self) -> PageSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop(check=error is None)

    def play(self, blocks: list[Block]) -> None:
        """Run a page's blocks in order, those behind a `serve` block against what it starts. Raises AssertionError."""
        self._work = Path(tempfile.mkdtemp(dir=self._folder))
        if self._served != DEFAULT_STACK:
            self.stop()
        waiting: list[Block] = []
        for block in blocks:
            if block.mark == "serve":
                self._run(waiting)
                waiting = []
                for command in block.commands().replace("\\\n", " ").splitlines():
                    if command.strip():
                        self.serve(command)
            elif not block.mark:
                waiting.append(block)
        self._run(waiting)

    def serve(self, command: str) -> None:
        """Start a stack, after the one that runs has been stopped; returns when it serves."""
        self.stop()
        self._served = command
        with self._log.open("wb") as log:
            self._stack = subprocess.Popen(
                ["bash", "-c", f"exec {self._here(command)}"], cwd=self._work, env=self._env, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_for(self._serves, f"it serves: {command}", START_S)

    def _serves(self) -> bool:
        assert self._stack
        assert self._stack.poll() is None, self._log.read_text()[-2000:]
        if "ready: http" not in self._log.read_text():
            return False
        try:
            return httpx.get(f"http://127.0.0.1:{self._ports['8000']}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, check: bool = True) -> None:
        """Ctrl-C in the stack's terminal."""
        stack, self._stack = self._stack, None
        if stack is None:
            return
        stack.send_signal(signal.SIGINT)
        try:
            code = stack.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(stack.pid, signal.SIGKILL)
            raise
        assert not check or code == 0, self._log.read_text()[-2000:]

    def _here(self, command: str) -> str:
        """A page's words with our ports in place of its own, and the model for `DIR`."""
        for port, ours in self._ports.items():
            command = re.sub(rf"(?<!\d){port}(?!\d)", ours, command)
        return command.replace("--model DIR", f"--model ~/.cache/quire/models/{MODEL}")

    def _run(self, blocks: list[Block]) -> None:
        if not blocks:
            return
        if self._stack is None:
            self.serve(DEFAULT_STACK)
        parts = [f"echo {shlex.quote(f'::{block}')} >&2\n{self._here(block.commands())}" for block in blocks]
        began = time.monotonic()
        script = PRELUDE + "\n".join(parts)
        ran = subprocess.run(
            ["timeout", str(BLOCK_S), "bash", "-c", script], cwd=self._work, env=self._env, capture_output=True,
            text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = f"{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
        at = re.findall(r"^::(.*)$", ran.stderr, re.MULTILINE)[-1:]
        if ran.returncode:
            self.stop(check=False)  # whatever is half done there, the next page finds none of it
        assert ran.returncode == 0, f"{at} ended with {ran.returncode} after {time.monotonic() - began:.1f} s:\n{said}"
