"""A real stack for tests: ``quire serve`` in a process group of its own, watched for what it leaves behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from quire_proto.client.client import KVReader
from quire_proto.messages import Stats
from quire_services.config.process_table import read_process_table
from tests.support.ports import free_port
from tests.support.waits import wait_for

START_S = 90.0


class Stack:
    """One running stack.

    Attributes:
        url: base of the HTTP API, without ``/v1``.
        run_dir: its sockets.
        segments: names of the shared memory segments it was seen to use.
    """

    def __init__(self, command: list[str], port: int, run_dir: Path, log: Path) -> None:
        self.command, self.run_dir, self.log = command, run_dir, log
        self.process = self.serve()
        self.url = f"http://127.0.0.1:{port}"
        self.segments: set[str] = set()
        self.http = httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    def serve(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start a supervisor, the first one or one that takes over."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*self.command, *flags], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self.process

    def kill_supervisor(self) -> None:
        """End it as the kernel does when memory is short; what it has started goes on."""
        self.process.kill()
        self.process.wait()

    def says(self, words: str, times: int = 1, seconds: float = START_S) -> None:
        """Wait until the supervisors have printed these words so often."""

        def said() -> bool:
            assert self.process.poll() is None, f"the stack ended:\n{self.log.read_text()[-4000:]}"
            return self.log.read_text().count(words) >= times

        wait_for(said, f"{words!r} is said {times} times", seconds)

    def health(self) -> int:
        """Status of /health, 0 if there is no answer."""
        try:
            return self.http.get("/health", timeout=5).status_code
        except httpx.TransportError:
            return 0

    def wait_ready(self, engines: int) -> None:
        """Until the gateway is healthy and all engines are attached."""

        def ready() -> bool:
            assert self.process.poll() is None, f"the stack ended:\n{self.log.read_text()[-4000:]}"
            return self.health() == 200 and len(self.ready_sessions()) == engines

        wait_for(ready, "the stack is ready", START_S)

    def stats(self) -> Stats:
        """The kvstore's own counters."""
        roster = (self.run_dir / "arena.json").read_text()
        self.segments.update(re.findall("quire-[0-9a-f]+", roster))
        with KVReader(self.run_dir) as reader:
            return reader.stats()

    def ready_sessions(self) -> dict[str, int]:
        """Names and pids of the engines that are ready in the kvstore."""
        if not (self.run_dir / "kvstore.sock").exists():
            return {}
        return {s.name: s.pid for s in self.stats().sessions if s.state == "ready"}

    def processes(self) -> list[psutil.Process]:
        """The supervisor, everything under it, and what an earlier one has started."""
        running = read_process_table(self.run_dir).running().values()
        pids = dict.fromkeys((self.process.pid, *(entry.pid for entry in running)))
        found: dict[int, psutil.Process] = {}
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                found |= {process.pid: process for process in (root, *root.children(recursive=True))}
        return list(found.values())

    def pid_of(self, subcommand: str) -> int:
        """Process id of the child that runs this subcommand."""
        for process in self.processes():
            if subcommand in process.cmdline():
                return process.pid
        raise LookupError(subcommand)

    def complete(self, prompt: list[int], **options: Any) -> dict[str, Any]:
        """One completion of a token prompt, greedy unless told otherwise, token ids included; raises on an error."""
        body = {"model": "m", "prompt": prompt, "temperature": 0, "return_token_ids": True, **options}
        headers = {"authorization": f"Bearer {options.pop('key')}"} if "key" in options else {}
        body.pop("key", None)
        answer = self.http.post("/v1/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result


@contextmanager
def running_stack(
    tmp: Path,
    model: Path,
    *flags: str,
    engines: int = 2,
    blocks: int = 1024,
    config: str = "",
    ready: bool = True,
) -> Iterator[Stack]:
    """Start a stack, yield it, stop it, and insist that it left nothing: no process, segment, socket or file."""
    port, run_dir, log = free_port(), tmp / "run", tmp / "serve.log"
    (tmp / "quire.toml").write_text(config)
    command = [
        sys.executable, "-m", "quire_services.cli", "serve", "--model", str(model), "--engines", str(engines),
        "--port", str(port), "--blocks", str(blocks), "--run-dir", str(run_dir), "--served-model-name", "m",
        "--config", str(tmp / "quire.toml"), "--threads", "1", *flags,
    ]  # fmt: skip
    stack = Stack(command, port, run_dir, log)
    children: list[psutil.Process] = []
    try:
        if ready:
            stack.wait_ready(engines)
            # Until it has said so itself, an engine that ends is the end of the stack.
            stack.says("ready: http")
        yield stack
        children = stack.processes()
        stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(30) == 0, log.read_text()[-4000:]
    finally:
        stack.http.close()
        _end(stack)
    wait_for(lambda: not any(p.is_running() for p in children), "all processes of the stack are gone", 5)
    assert stack.segments
    assert not {name for name in stack.segments if Path("/dev/shm", name).exists()}
    assert not run_dir.exists() or not list(run_dir.iterdir())


def _end(stack: Stack) -> None:
    """Stop a stack whose test failed: by a signal, so that it too leaves nothing, and by force if that takes long."""
    process, others = stack.process, stack.processes()
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for other in others:
        with suppress(psutil.NoSuchProcess):
            other.kill()


def step_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a step log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
