"""Stack: the processes of one host and the command line each is started with.

Only command lines: what runs when is ``serve``'s business. Every process is this interpreter running one
subcommand, so each can also be started by hand with what ``ps`` shows.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from .child import Child
from .settings import Config


def command(name: str, *arguments: str) -> list[str]:
    """The command line of a subcommand, run by this interpreter, with nothing of the working directory importable."""
    return [sys.executable, "-P", "-m", "quire_services.cli", name, *arguments]


class Stack:
    """The children of one stack, none of them started.

    Attributes:
        prepare: writes ``prepared.json`` and ends.
        kvstore, gateway, engines: run until stopped.
    """

    def __init__(self, config: Config, run_dir: Path) -> None:
        file = ["--config", str(config.file)] if config.file else []
        model = ["--model", str(Path(config.serve.model).absolute())]
        pool = ["--block-size", str(config.kvstore.block_size), "--dtype", config.kvstore.dtype]
        here = ["--run-dir", str(run_dir), *file]
        prepared = str(run_dir / "prepared.json")
        self.prepare = Child("prepare", command("prepare", *file, *model, *pool, "--out", prepared), keep=False)
        self.kvstore = Child(
            "kvstore",
            command("kvstore", *here, "--prepared", prepared, "--blocks", str(config.kvstore.blocks)),
            death_signal=signal.SIGTERM,
        )
        self.gateway = Child("gateway", command("gateway", *here, *model, *_gateway_flags(config)))
        self.engines = [
            Child(name, command("engine", *here, *model, *pool, "--name", name, *_engine_flags(config)))
            for name in (f"engine-{number}" for number in range(1, config.serve.engines + 1))
        ]


def _gateway_flags(config: Config) -> list[str]:
    flags = ["--host", config.gateway.host, "--port", str(config.gateway.port)]
    if config.gateway.served_model_name:
        flags += ["--served-model-name", config.gateway.served_model_name]
    return flags


def _engine_flags(config: Config) -> list[str]:
    engine = config.engine
    threads = engine.threads or max(1, (os.cpu_count() or 1) // config.serve.engines)
    return [
        *("--attention", engine.attention),
        *("--max-batch-tokens", str(engine.max_batch_tokens)),
        *("--max-sequences", str(engine.max_sequences)),
        *("--threads", str(threads)),
        *(("--step-log", str(Path(engine.step_log).absolute())) if engine.step_log else ()),
    ]
