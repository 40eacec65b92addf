"""Fetching a stack's model from the hub before anything else is started.

A process of its own does it (``quire fetch``): what it takes to speak to the hub, threads and libraries of megabytes,
is gone when it ends, and a signal ends it at once. It is watched as all children are, by its share of what has come.
"""

from __future__ import annotations

from dataclasses import replace

from quire_engine.checkpoint.refusal import ModelRefused
from quire_services.config.settings import Config
from quire_services.process.model.served_model import local_directory
from quire_services.process.screen import Screen, bar
from quire_services.process.subcommand import command_line

from .child import Child
from .supervisor import Supervisor
from .words.causes import how_it_ended

FETCH_POLL_S = 0.2  # between two looks at how far it has come
FETCH_END_S = 2.0  # it has nothing to finish


def with_model_here(config: Config, screen: Screen) -> Config | None:
    """The configuration with a directory for its model, fetched if need be; None if a signal came first.

    Raises ModelRefused.
    """
    directory = local_directory(config.serve)
    if directory is None:
        if not _fetch(config, screen):
            return None
        directory = local_directory(config.serve)
        if directory is None:
            raise ModelRefused(f"{config.serve.model} was fetched and is not in the hub's cache")
    return replace(config, serve=replace(config.serve, model=str(directory), revision=""))


def _fetch(config: Config, screen: Screen) -> bool:
    """Whether it was fetched; False if a signal came first. Raises ModelRefused."""
    serve = config.serve
    flags = [f"--model={serve.model}", f"--revision={serve.revision}"]
    child = Child("fetch", command_line("fetch", *flags), keep=False)
    with Supervisor(lambda *_ended: None) as supervisor:
        screen.line(f"fetching {serve.model} from the hub ...")
        supervisor.start(child)
        while child.code is None and not supervisor.signals:
            supervisor.pump(FETCH_POLL_S)
            share = child.loaded
            screen.passing(f"fetching {serve.model} {bar(share)}", f"fetching {serve.model}: {share:.0%}")
        screen.passing("")
        if child.code is None:
            supervisor.stop([[child]], FETCH_END_S)
            return False
    if child.code:
        raise ModelRefused(child.reason or f"fetching {serve.model} {how_it_ended(child.code)}")
    return True
