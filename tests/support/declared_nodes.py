"""Nodes of a cluster on this machine: stacks that follow one store of declarations, and what each of them says."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from quire_services.config.process_table import read_process_table
from tests.support.stack import Stack, running_stack

QUIRE = [sys.executable, "-P", "-m", "quire_services.cli"]


class DeclaredNode:
    """One."""

    def __init__(self, name: str, stack: Stack) -> None:
        self.name, self.stack = name, stack

    def admin(self, path: str) -> list[dict[str, Any]]:
        """Rows of the admin API."""
        gateway = read_process_table(self.stack.run_dir).running()["gateway"]
        token = (self.stack.run_dir / "admin.token").read_text().strip()
        url = f"http://127.0.0.1:{gateway.option('admin-port')}/admin/{path}"
        answer = httpx.get(url, headers={"authorization": f"Bearer {token}"}, timeout=30, trust_env=False)
        rows: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return rows

    def members(self) -> list[tuple[str, str]]:
        """Groups and tenants."""
        return [(row["group"], row["tenant"]) for row in self.admin("groups")]

    def ask(self, key: str, prompt: list[int] | None = None, **options: Any) -> httpx.Response:
        """A completion."""
        body = {"model": "m", "prompt": prompt or [5, 6, 7], "max_tokens": 1, "temperature": 0, **options}
        return self.stack.http.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})

    def status(self, key: str) -> int:
        """Of a completion with this key."""
        return self.ask(key).status_code

    def restart(self) -> None:
        """Stop it in order, and start it from what it kept."""
        said = self.stack.log.read_text().count("ready: http")
        self.stack.process.send_signal(signal.SIGINT)
        assert self.stack.process.wait(60) == 0
        self.stack.serve()
        self.stack.says("ready: http", said + 1, seconds=180)

    def computed_tokens(self) -> int:
        """What its engines have computed since they started."""
        return sum(row["counters"].get("computed_tokens", 0) for row in self.admin("engines"))


@contextmanager
def declared_node(
    folder: Path, model: Path, store: str, name: str, *flags: str, **options: Any
) -> Iterator[DeclaredNode]:
    """A node of one engine in a folder of its own; what is kept there is its next life's."""
    folder.mkdir(exist_ok=True)
    follows = (f"--declarations={store}", f"--node-name={name}", f"--state-dir={folder / 'state'}")
    (folder / "state").mkdir(mode=0o700, exist_ok=True)
    with running_stack(folder, model, *follows, *flags, engines=1, **options) as stack:
        yield DeclaredNode(name, stack)


def declare(store: str, *arguments: object) -> str:
    """What ``quire declare`` prints; it must succeed."""
    command = [*QUIRE, "declare", *map(str, arguments), f"--store={store}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.sub(r", version \d+", "", done.stdout).strip()
