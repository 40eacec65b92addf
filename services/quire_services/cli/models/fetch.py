"""``quire fetch``: fetch a model from the hub into its cache on this host, and print the directory that it lies in.

What cannot be served is refused before its weights are fetched. ``quire serve`` does the same by itself: this is for a
host, or an image, that is to have the model before it is asked for, or that will have no network then.
"""

from __future__ import annotations

import signal
import sys

from quire_engine.checkpoint.refusal import ModelRefused
from quire_services.process import flags
from quire_services.process.model.served_model import fetch_model, local_directory
from quire_services.process.reason import complain
from quire_services.process.standard_streams import print_line


def main(argv: list[str]) -> int:
    """Entry of ``quire fetch``; returns the exit code."""
    parser = flags.Parser(prog="quire fetch", description=(__doc__ or "").partition("\n")[0])
    flags.add(parser, "serve", only=("model", "revision"))
    config = flags.read_config(parser, parser.parse_args(argv))
    if not config.serve.model:
        parser.error("--model is needed: org/name")
    # Its threads wait for the network: no end but this one is soon.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        directory = local_directory(config.serve) or fetch_model(config.serve)
        if not (directory / "config.json").is_file():
            raise ModelRefused(f"{config.serve.model!r} is no model on the hub: say org/name")
    except (ModelRefused, OSError) as error:
        complain("quire fetch", str(error))
        return 2
    print_line(str(directory), sys.stdout)
    return 0
