"""The ``quire`` command and its subcommands that people run."""

from .command import main

__all__ = ["main"]
