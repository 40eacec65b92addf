"""The stack the demo runs: a tiny model, a configuration with three tenants, and ``quire serve`` in front of both.

Everything lies in one temporary directory. Leaving ``running`` stops the stack and looks for what it left: processes,
shared memory, files in the run directory.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from quire_kv import Found, KVReader, Stats
from quire_services.stack.child import die_with

TENANTS = ("atlas", "borea", "cairn")
VOCABULARY = 500
PROMPT_WORDS = 1_000
BLOCKS = 512
BLOCK_SIZE = 16
ENGINES = 2
PUBLICATION = "agent"


def words(seed: int, count: int) -> str:
    """``count`` words of the tiny vocabulary, one token each."""
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(VOCABULARY)}" for _ in range(count))


def key_of(tenant: str) -> str:
    """The API key of a tenant."""
    return f"sk-demo-{tenant}"


def write_config(folder: Path) -> Path:
    """Tenants with their keys, and one system prompt that is published to all of them."""
    (folder / f"{PUBLICATION}.txt").write_text(words(0, PROMPT_WORDS) + "\n")
    tenants = "".join(f'[[tenants]]\nname = "{tenant}"\nkeys = ["{key_of(tenant)}"]\n\n' for tenant in TENANTS)
    file = folder / "quire.toml"
    file.write_text(f'{tenants}[[published]]\nfile = "{PUBLICATION}.txt"\ndomain = "public"\n')
    return file


@dataclass
class DemoStack:
    """A running stack, and after it stopped, what it left behind."""

    url: str
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

    def steps(self) -> dict[str, list[dict[str, int]]]:
        """For each engine one row a step, as it logged them."""
        logs = {log.stem.removeprefix("steps-"): log for log in sorted(self.folder.glob("steps-*.jsonl"))}
        return {name: [json.loads(line) for line in log.read_text().splitlines()] for name, log in logs.items()}


@contextmanager
def running(model: Path, folder: Path, progress: Callable[[str], None]) -> Iterator[DemoStack]:
    """Start the stack, yield it when it is ready, stop it. Raises RuntimeError if it does not come up."""
    port, log = _free_port(), folder / "serve.log"
    stack = DemoStack(f"http://127.0.0.1:{port}/v1", folder / "run", folder)
    command = [
        *(sys.executable, "-m", "quire_services.cli", "serve", f"--model={model}", f"--engines={ENGINES}"),
        *(f"--port={port}", f"--blocks={BLOCKS}", f"--block-size={BLOCK_SIZE}", f"--run-dir={stack.run_dir}"),
        *(f"--config={write_config(folder)}", f"--step-log={folder}/steps-{{name}}.jsonl"),
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
