"""A rollout under streams: every engine is replaced while clients read, and what they see of it.

    python -m tests.chaos.rollout [--model DIR] [--save NAME]

Sixteen clients read one stream after the other from three engines, first with nothing happening and then while
``quire rollout`` replaces all three. No stream may fail or differ, and nothing may be computed twice. A pause of a
stream is told in its own median pauses, beside the longest ones of the same streams undisturbed: on a small machine
those are not short either.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.models.sizes import REAL, model_directory
from bench.models.tiny import make_model
from bench.report.figures import Report, percentile, table
from tests.chaos.request_lines import request_lines
from tests.support.gateway import write_tokenizer
from tests.support.stack import Stack, running_stack
from tests.support.streams import Stream, Streams

CLIENTS, ENGINES = 16, 3


def rollout(stack: Stack, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run ``quire rollout`` to its end."""
    command = [sys.executable, "-m", "quire_services.cli", "rollout", f"--run-dir={stack.run_dir}", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def recomputed(stack: Stack) -> int:
    """Tokens that were computed twice, of all requests that are over."""
    return sum(line["recomputed_tokens"] for line in request_lines(stack.log).values())


def moved(stack: Stack) -> int:
    """How often a choice has gone on in another engine, of all requests that are over."""
    return sum(line["moves"] for line in request_lines(stack.log).values())


def _row(what: str, streams: list[Stream], seconds: float) -> list[object]:
    pauses = [stream.gap_in_steps() for stream in streams]
    steps = [1000 * stream.step() for stream in streams]
    return [what, len(streams), seconds, percentile(steps, 0.5), *(percentile(pauses, at) for at in (0.5, 0.99, 1.0))]


def measure(stack: Stack, tokens: int) -> Report:
    """Both runs. Raises AssertionError where a stream fails or differs, or the rollout fails."""
    began = time.monotonic()
    with Streams(stack, CLIENTS, tokens) as calm:
        time.sleep(time.monotonic() - began)
    quiet = time.monotonic() - began
    with Streams(stack, CLIENTS, tokens) as streams:
        began, before = time.monotonic(), moved(stack)
        told = rollout(stack, "--json")
        took = time.monotonic() - began
    assert told.returncode == 0, told.stderr
    replaced = len(json.loads(told.stdout)["replaced"])
    report = Report("rollout", {"clients": CLIENTS, "engines": ENGINES, "tokens": tokens, "replaced": replaced})
    header = ["", "streams", "seconds", "median step, ms", "longest pause in steps, p50", "p99", "longest"]
    rows = [_row("undisturbed", calm.done, quiet), _row("rollout", streams.done, took)]
    report.tables.append(("What clients saw of a rollout", table(rows, header)))
    report.figures = {"moves": moved(stack) - before, "recomputed": recomputed(stack), "seconds": took}
    report.figures |= {"longest": rows[1][-1], "longest_undisturbed": rows[0][-1]}
    report.notes.append(
        f"No stream failed or differed; {report.figures['moves']} choices moved, and {report.figures['recomputed']} "
        "tokens were computed twice."
    )
    return report


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Replace every engine under streams.")
    parser.add_argument("--model", choices=["tiny", REAL], default=REAL, help="random and tiny, or the real one")
    parser.add_argument("--tokens", type=int, default=150, help="of a stream")
    parser.add_argument("--save", help="write NAME.md and NAME.json under bench/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quire-rollout-") as directory:
        tmp = Path(directory)
        model = model_directory(REAL) if arguments.model == REAL else make_model(tmp / "model", vocab=320)
        if arguments.model != REAL:
            write_tokenizer(model)
        with running_stack(tmp, model, "--hold-s=60", engines=ENGINES, blocks=2048) as stack:
            report = measure(stack, arguments.tokens)
    report.settings["model"] = arguments.model
    report.command = f"python -m tests.chaos.rollout --model {arguments.model}"
    report.write(arguments.save)
    report.show(as_json=False)
    return 1 if report.figures["recomputed"] else 0


if __name__ == "__main__":
    sys.exit(main())
