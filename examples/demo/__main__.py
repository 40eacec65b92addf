"""The demo behind ``make demo``: three tenants, two engines, one pool, and a table of what was computed and shared.

One tenant's agent sends the first request with the published prompt and pays for it. Then the agents of all three
tenants come, on both engines, each with a private prompt of its own, and one answer is streamed. What must hold is
checked against what the kvstore and the engines themselves count; the exit code is 0 only if all of it does.

With ``--model smollm2``, the default, a small real model answers in English, and one agent calls a function; with
``--model tiny`` a random one answers, and nothing is fetched.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

from openai import OpenAIError

from bench.models.fetched import NoModel
from examples.demo import smollm2, tiny
from examples.demo.report import Measured, report
from examples.demo.stack import running
from examples.demo.terminal import progress

SCRIPTS: dict[str, ModuleType] = {"smollm2": smollm2, "tiny": tiny}


LONGEST = 60  # bytes of a directory below which the sockets of a stack have paths that a kernel takes


def place() -> str:
    """The directory for temporary files; /tmp where its path is too long for sockets in it."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= LONGEST else "/tmp"


def play(script: ModuleType) -> bool:
    """Run the demo; whether all that must hold does. Raises NoModel, and RuntimeError if the stack does not come up."""
    with tempfile.TemporaryDirectory(prefix="quire-demo-", dir=place()) as name:
        folder = Path(name)
        model = script.make(folder)
        began = time.monotonic()
        with running(model, script.PROMPT, script.BLOCKS, folder, progress) as stack:
            played = script.play(stack)
            measured = Measured(stack.blocks, stack.settled(), stack.published_blocks(), stack.steps())
        holds = report(played, measured, stack.left)
    print(f"\n{time.monotonic() - began:.0f} s from the start of the stack to its end.")
    return holds


def main() -> int:
    """The exit code: 0 if all holds, 1 if something does not, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="make demo", description="what Quire does, shown on this machine")
    parser.add_argument("--model", choices=SCRIPTS, default="smollm2", help="in make: MODEL=tiny (default: smollm2)")
    try:
        return 0 if play(SCRIPTS[parser.parse_args().model]) else 1
    except NoModel as error:
        print(f"demo: {error}.\ndemo: `make demo MODEL=tiny` needs no download", file=sys.stderr)
        return 1
    except (RuntimeError, OpenAIError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.unraisablehook = lambda _: None  # what was half made just then cannot be closed, and says so
        print("\ndemo: interrupted; nothing of it is left running", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
