"""Stack: the processes of one host and the command line each is started with.

Only command lines: what runs when is ``serve``'s business. Every process is this interpreter running one
subcommand, so each can also be started by hand with what ``ps`` shows.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from . import flags
from .child import Child
from .settings import Config


def command(name: str, *arguments: str) -> list[str]:
    """The command line of a subcommand, run by this interpreter, with nothing of the working directory importable."""
    return [sys.executable, "-P", "-m", "quire_services.cli", name, *arguments]


# What the kvstore takes from the prepared file instead.
LAYOUT = ("block_size", "dtype")


class Stack:
    """The children of one stack, none of them started.

    Attributes:
        prepare: writes ``prepared.json`` and ends.
        kvstore, gateway, engines: run until stopped.
    """

    def __init__(self, config: Config, run_dir: Path) -> None:
        file = [f"--config={config.file}"] if config.file else []
        model = [f"--model={Path(config.serve.model).absolute()}"]
        here = [f"--run-dir={run_dir}", *file]
        prepared = run_dir / "prepared.json"
        pool = [f"--block-size={config.kvstore.block_size}", f"--dtype={config.kvstore.dtype}"]
        self.prepare = Child("prepare", command("prepare", *file, *model, *pool, f"--out={prepared}"), keep=False)
        store = flags.spelled(_with_arena(config), "kvstore", but=LAYOUT)
        self.kvstore = Child(
            "kvstore",
            command("kvstore", *here, f"--prepared={prepared}", *store),
            death_signal=signal.SIGTERM,
        )
        self.gateway = Child("gateway", command("gateway", *here, *model, *flags.spelled(config, "gateway")))
        engine = [*here, *model, *pool, *flags.spelled(_with_threads(config), "engine")]
        self.engines = [
            Child(name, command("engine", *engine, f"--name={name}"))
            for name in (f"engine-{number}" for number in range(1, config.serve.engines + 1))
        ]


def _with_arena(config: Config) -> Config:
    """The configuration with the arena in host memory if the engines compute there and nothing else was asked for."""
    if (config.kvstore.arena, config.engine.attention) != ("auto", "cpu"):
        return config
    return replace(config, kvstore=replace(config.kvstore, arena="shm"))


def _with_threads(config: Config) -> Config:
    """The configuration with the cores divided among the engines, unless their threads are set."""
    share = max(1, (os.cpu_count() or 1) // config.serve.engines)
    return replace(config, engine=replace(config.engine, threads=config.engine.threads or share))
