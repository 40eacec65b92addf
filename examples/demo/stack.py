"""The stack the demo runs: a model, a configuration with three tenants and a published prompt, and ``quire serve``.

Everything but the model lies in one temporary directory. Leaving ``running`` stops the stack and looks for what it
left: processes, shared memory, files in the run directory.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from quire_kv import Found, KVReader, Stats
from quire_services.stack.child import die_with

TENANTS = ("atlas", "borea", "cairn")
BLOCK_SIZE = 16
ENGINES = 2
PUBLICATION = "agent"


@dataclass(frozen=True)
class SharedPrompt:
    """What every agent begins with, and what is published: a system message, and the tools, if any."""

    system: str
    tools: list[dict[str, Any]] = field(default_factory=list)


def key_of(tenant: str) -> str:
    """The API key of a tenant."""
    return f"sk-demo-{tenant}"


def write_config(folder: Path, prompt: SharedPrompt) -> Path:
    """Tenants with their keys, and one prompt that is published to all of them."""
    (folder / f"{PUBLICATION}.txt").write_text(prompt.system + "\n")
    published = f'[[published]]\nfile = "{PUBLICATION}.txt"\ndomain = "public"\n'
    if prompt.tools:
        (folder / "tools.json").write_text(json.dumps(prompt.tools))
        published += 'tools = "tools.json"\n'
    tenants = "".join(f'[[tenants]]\nname = "{tenant}"\nkeys = ["{key_of(tenant)}"]\n\n' for tenant in TENANTS)
    file = folder / "quire.toml"
    file.write_text(tenants + published)
    return file


@dataclass
class DemoStack:
    """A running stack, and after it stopped, what it left behind."""

    url: str
    model: str
    prompt: SharedPrompt
    blocks: int
    run_dir: Path
    folder: Path
    left: list[str] = field(default_factory=list)

    def stats(self) -> Stats:
        """The kvstore's own counters."""
        with KVReader(self.run_dir) as reader:
            return reader.stats()

    def published_blocks(self) -> Found:
        """Where the published prompt lies, asked of the kvstore."""
        with KVReader(self.run_dir) as reader:
            return reader.lookup(publication=PUBLICATION)

    def settled(self) -> Stats:
        """The counters once no sequence is left: an engine gives blocks up in the step after the last token."""
        deadline = time.monotonic() + 5
        while True:
            stats = self.stats()
            if not any(session.sequences for session in stats.sessions) or time.monotonic() > deadline:
                return stats
            time.sleep(0.02)

    def steps(self) -> dict[str, list[dict[str, int]]]:
        """For each engine one row a step, as it logged them."""
        logs = {log.stem.removeprefix("steps-"): log for log in sorted(self.folder.glob("steps-*.jsonl"))}
        return {name: [json.loads(line) for line in log.read_text().splitlines()] for name, log in logs.items()}


@contextmanager
def running(
    model: Path, prompt: SharedPrompt, blocks: int, folder: Path, progress: Callable[[str], None]
) -> Iterator[DemoStack]:
    """Start the stack, yield it when it is ready, stop it. Raises RuntimeError if it does not come up."""
    port, log = _free_port(), folder / "serve.log"
    stack = DemoStack(f"http://127.0.0.1:{port}/v1", model.name, prompt, blocks, folder / "run", folder)
    command = [
        *(sys.executable, "-m", "quire_services.cli", "serve", f"--model={model}", f"--engines={ENGINES}"),
        *(f"--port={port}", f"--blocks={blocks}", f"--block-size={BLOCK_SIZE}", f"--run-dir={stack.run_dir}"),
        *(f"--config={write_config(folder, prompt)}", f"--step-log={folder}/steps-{{name}}.jsonl"),
        "--prefill=false",  # the first agent is to be seen computing it
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the stack
            preexec_fn=die_with(os.getpid(), signal.SIGTERM),
        )
    assert process.stdout
    children: list[psutil.Process] = []
    segment = ""
    try:
        for line in process.stdout:
            progress(line.rstrip())
            if line.startswith("ready:"):
                break
        else:
            raise RuntimeError(f"the stack did not come up:\n{log.read_text()[-3000:]}")
        children = psutil.Process(process.pid).children(recursive=True)
        segment = json.loads((stack.run_dir / "arena.json").read_text())["shm"]
        yield stack
    finally:
        process.send_signal(signal.SIGINT)
        for line in process.stdout:
            if line.strip() and not line.startswith("  "):  # not what runs and how to ask it
                progress(line.rstrip())
        code = process.wait(60)
        process.stdout.close()
    alive = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    stack.left = [f"process {child.pid}" for child in alive]
    stack.left += [f"/dev/shm/{segment}"] if (Path("/dev/shm") / segment).is_file() else []
    stack.left += [str(file) for file in stack.run_dir.glob("*")] if stack.run_dir.exists() else []
    stack.left += [f"exit code {code}"] if code else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
