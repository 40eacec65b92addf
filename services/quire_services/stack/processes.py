"""Stack: the processes of one host and the command line each is started with.

Only command lines: what runs when is ``serve``'s business. Every process is this interpreter running one
subcommand, so each can also be started by hand with what ``ps`` shows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from quire_proto.gateway_link import DECODE, PREFILL
from quire_services.config.prepared_file import PREPARED_FILE
from quire_services.config.process_table import ProcessTable
from quire_services.config.settings import POOL_SIZES, Config
from quire_services.process import flags
from quire_services.process.subcommand import command_line

from .child import Child, Fork
from .declared.children import declaration_children
from .fingerprint import content_digest, fingerprint, memberships, model_files
from .state_tree import STATE

# What the kvstore takes from the prepared file instead, and engines are given as flags.
LAYOUT_SETTINGS = ("block_size", "dtype", "kv_cache_dtype")


# What a fork server imports for engines: their program, and what that imports later, for any model.
ENGINE_MODULES = (
    "quire_services.cli.command",
    "quire_services.daemons.engined",
    "transformers.models.auto.tokenization_auto",
)
# Of engines. How long a compute thread of GNU's OpenMP spins for its next piece of work: about 0.2 ms, which covers the
# gaps inside a step. Its own 300,000 rounds take milliseconds, and cost a third of a step where a gateway needs the
# same cores. And how many bytes of freed memory glibc keeps: a prefill's tensors, given back to the system after each
# operation, are mapped and zeroed anew for the next one, which is a tenth of its time.
ENGINE_ENVIRONMENT = {
    "GOMP_SPINCOUNT": "20000",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
}


class Stack:
    """The children of one stack, none of them started.

    Args:
        instance: what this stack's gateway calls itself at /health, so that no other is taken for it.
        table: where they are entered; without one they die with the supervisor.
        fork: how engines are had quicker than by an exec (``Child``).
        preload: what is in an engine's environment in any case.

    Attributes:
        prepare: writes the prepared file and ends.
        first_look: writes what a follower must know, and ends; None without declarations, as the follower.
        kvstore, gateway, follower, engines: run until stopped.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        instance: str = "",
        table: ProcessTable | None = None,
        fork: Fork | None = None,
        preload: Mapping[str, str] | None = None,
    ) -> None:
        config = on_one_side(config)  # before anything is told where to compute
        file = [f"--config={config.file}"] if config.file else []
        directory = Path(config.serve.model).absolute()
        model = [f"--model={directory}"]
        here = [f"--run-dir={run_dir}", f"--log-format={config.serve.log_format}", *file]
        here += [f"--otlp-traces-endpoint={config.serve.otlp_traces_endpoint}"]
        self._prepared = run_dir / PREPARED_FILE
        pool = [f"--{name.replace('_', '-')}={getattr(config.kvstore, name)}" for name in LAYOUT_SETTINGS]
        read = [
            f"--max-model-len={config.engine.max_model_len}",
            f"--attention={config.engine.attention}",
            f"--tools-in-prompt={config.gateway.tools_in_prompt}",
        ]
        self.prepare = Child(
            "prepare", command_line("prepare", *file, *model, *pool, *read, f"--out={self._prepared}"), keep=False
        )
        if not config.kvstore.state_dir:
            config = replace(config, kvstore=replace(config.kvstore, state_dir=str(run_dir / STATE)))
        self._files = model_files(directory) if directory.is_dir() else []
        self._groups = memberships(config.tenants)
        other_sizes = [name for name in POOL_SIZES if name != config.kvstore.sized_by]
        store = flags.as_flags(config, "kvstore", but=(*LAYOUT_SETTINGS, *other_sizes))
        self.kvstore = Child(
            "kvstore",
            command_line("kvstore", *here, f"--prepared={self._prepared}", *store),
            defaults=_engines_wanted(config),
            table=table,
        )
        front = [*here, *model, f"--instance={instance}", *flags.as_flags(config, "gateway")]
        self.gateway = Child("gateway", command_line("gateway", *front), table=table)
        engine = [*here, *model, *pool, *flags.as_flags(_with_threads(config), "engine")]
        self.engines = [
            Child(
                name,
                command_line("engine", *engine, *role, f"--name={name}"),
                defaults=ENGINE_ENVIRONMENT,
                environment={**os.environ, **(preload or {})},
                table=table,
                fork=fork,
            )
            for name, role in _engines(config)
        ]
        self.first_look: Child | None
        self.follower: Child | None
        self.first_look, self.follower = declaration_children(config, run_dir, table) or (None, None)
        for child in (self.gateway, *self.engines):
            child.settings = fingerprint(child.argv, self._files)

    @property
    def one_shot(self) -> list[Child]:
        """Those that end before others begin."""
        return [child for child in (self.prepare, self.first_look) if child]

    def lasting(self) -> list[Child]:
        """Those that run until stopped."""
        return [self.kvstore, self.gateway, *self.followers, *self.engines]

    @property
    def followers(self) -> list[Child]:
        """The follower, if there is one."""
        return [self.follower] if self.follower else []

    def read_prepared(self) -> None:
        """What has been prepared is a part of the kvstore's settings."""
        self.kvstore.settings = fingerprint(
            self.kvstore.argv, self._files, self._groups, content_digest(self._prepared)
        )


def _engines_wanted(config: Config) -> dict[str, str]:
    """What a kvstore must know of its engines to leave them room on a GPU. As environment, which is no setting of its
    own: a stack that gets another engine keeps its kvstore."""
    return {
        "QUIRE_SERVE_ENGINES": str(config.serve.engines),
        "QUIRE_ENGINE_MAX_BATCH_TOKENS": str(config.engine.max_batch_tokens),
        "QUIRE_ENGINE_MAX_SEQUENCES": str(config.engine.max_sequences),
    }


def _engines(config: Config) -> list[tuple[str, list[str]]]:
    """Name and further flags of each engine: the first prefill, if some are to, and the others decode."""
    prefill = config.serve.prefill_engines
    roles = [PREFILL if number < prefill else DECODE for number in range(config.serve.engines)]
    return [(f"engine-{place}", [f"--role={role}"] if prefill else []) for place, role in enumerate(roles, 1)]


def on_one_side(config: Config) -> Config:
    """The configuration with arena and attention both on the host where only one of them was asked to be there.

    With both left to probes, the kvstore and the engines look at the same GPU and come to the same end.
    """
    arena, attention = config.kvstore.arena, config.engine.attention
    if arena == "auto" and (attention == "cpu" or _interpreted()):
        return replace(config, kvstore=replace(config.kvstore, arena="shm"))
    if arena == "shm" and attention == "auto":
        return replace(config, engine=replace(config.engine, attention="cpu"))
    return config


def _interpreted() -> bool:
    """Whether Triton's kernels would run in its interpreter, which needs host memory."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _with_threads(config: Config) -> Config:
    """The configuration with the cores divided among the engines, unless their threads are set."""
    share = max(1, (os.cpu_count() or 1) // config.serve.engines)
    return replace(config, engine=replace(config.engine, threads=config.engine.threads or share))
