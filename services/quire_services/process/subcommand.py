"""How a process of ours is started: this interpreter and one subcommand, as it can be started by hand, too."""

from __future__ import annotations

import sys


def command_line(name: str, *arguments: str) -> list[str]:
    """The command line of a subcommand, run by this interpreter, with nothing of the working directory importable."""
    return [sys.executable, "-P", "-m", "quire_services.cli", name, *arguments]
