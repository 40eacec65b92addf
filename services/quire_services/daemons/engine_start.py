"""What ``quire engine`` does before it imports an engine: it sees to what has to be there before the process is.

A supervisor has seen to it where it starts an engine; one that is started by hand, or as the program of a container,
does so itself, by an exec. Nothing that computes is imported here.
"""

from __future__ import annotations

import os
import sys

from quire_services.process import flags
from quire_services.process.preload.environment import PRELOADED, become_preloaded

from .engine_flags import engine_parser


def before_import(argv: list[str]) -> None:
    """Have ``quire engine`` with these arguments preload what it is to; may not return. Mistakes in the arguments end
    the process, as they would later."""
    if PRELOADED in os.environ or sys.orig_argv[-len(argv) - 1 :] != ["engine", *argv]:
        return  # decided, or this process is another program
    parser = engine_parser()
    become_preloaded(flags.read_config(parser, parser.parse_args(argv)).engine)
