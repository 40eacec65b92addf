"""The served model, settled: what the settings leave to its files or to the hub, put in their place.

Every process that reads a model settles its configuration first, so that all of a stack come to the same, whichever of
them is started by hand. ``quire serve`` has the model fetched before anything else, and its processes get a directory.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from quire_engine.checkpoint.hub.hub_model import HubModel
from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.checkpoint.weights.dtype import AUTO_DTYPE, compute_dtype
from quire_engine.checkpoint.weights.float16 import CHOSEN, FLOAT16, INSTEAD, REFUSED, has_float16
from quire_services.config.settings import Config, ServeSettings
from quire_services.process.preload.environment import computes_on_cpu
from quire_services.process.screen import Screen, bar
from quire_services.process.start_report import report_load_share

REDRAWN_S = 0.1


def settled(config: Config) -> Config:
    """The configuration with the model's directory in the place of its name on the hub, and with the element type that
    ``kvstore.dtype`` = ``auto`` means for it.

    Raises ModelRefused (a ValueError) or OSError.
    """
    config = with_directory(config)
    dtype = dtype_here(Path(config.serve.model), config)
    return replace(config, kvstore=replace(config.kvstore, dtype=dtype))


def dtype_here(directory: Path, config: Config) -> str:
    """The element type that ``kvstore.dtype`` means for the model in ``directory`` where its engines compute.

    Raises ModelRefused for one that is asked for and of no use there, or OSError.
    """
    wanted = config.kvstore.dtype
    dtype = compute_dtype(directory, wanted)
    if dtype != FLOAT16 or not computes_on_cpu(config.engine) or has_float16():
        return dtype
    if wanted != AUTO_DTYPE:
        raise ModelRefused(REFUSED)
    return INSTEAD


def dtype_note(directory: Path, config: Config) -> str:
    """Where ``auto`` is not the checkpoint's own type: what it is instead, and what that costs; else ""."""
    if config.kvstore.dtype != AUTO_DTYPE or dtype_here(directory, config) == compute_dtype(directory, AUTO_DTYPE):
        return ""
    return CHOSEN


def with_directory(config: Config) -> Config:
    """The configuration with the model's directory, fetched from the hub if it is not there. Raises ModelRefused."""
    directory = local_directory(config.serve)
    if directory is None:
        directory = fetch_model(config.serve)
    return replace(config, serve=replace(config.serve, model=str(directory), revision=""))


def local_directory(serve: ServeSettings) -> Path | None:
    """Where the model lies on this host, whether it is there or not; None if it has to be fetched from the hub first.

    Raises ModelRefused.
    """
    hub = HubModel.named(serve.model, serve.revision)
    if hub is not None:
        return hub.cached()
    if serve.revision:
        raise ModelRefused(f"--revision {serve.revision} is of a model on the hub: {serve.model!r} is a path")
    return Path(serve.model).absolute()


def fetch_model(serve: ServeSettings) -> Path:
    """Fetch a model from the hub, and tell a person and the supervisor how far it has come. Raises ModelRefused."""
    from quire_engine.checkpoint.architecture import read_config  # imports transformers
    from quire_engine.checkpoint.hub.fetch import fetch

    hub = HubModel.named(serve.model, serve.revision)
    assert hub is not None, "a name on the hub"
    progress = _Progress(str(hub))
    directory = fetch(hub, read_config, progress.report, progress.screen.line)
    progress.screen.passing("")
    return directory


class _Progress:
    """How much of a model has come, on stderr: what a command answers is on stdout."""

    def __init__(self, model: str) -> None:
        self.screen = Screen(sys.stderr)
        self._model = model
        self._drawn_at = 0.0

    def report(self, done: int, total: int) -> None:
        """From any thread, one at a time."""
        report_load_share(done, total)
        if time.monotonic() - self._drawn_at >= REDRAWN_S:
            self._drawn_at = time.monotonic()
            share = done / total if total else 1.0
            of = f"of {total / 1e9:.2f} GB of {self._model}"
            self.screen.passing(f"{bar(share)} {of}", f"{share:.0%} {of} fetched")
