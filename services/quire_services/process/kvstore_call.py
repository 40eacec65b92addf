"""Calls of people to a running kvstore: one reader, one question, and every failure as one line.

For subcommands that ask the kvstore of a run directory and print its answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from quire_proto.client.client import KVReader
from quire_proto.wire.errors import KvstoreUnreachable, QuireError
from quire_services.config.input_files import one_line

TIMEOUT = 5.0


def ask(who: str, run_dir: Path, question: Callable[[KVReader], str]) -> int:
    """Print what ``question`` makes of the kvstore's answer; returns the exit code, 1 if there was no good one."""
    try:
        if not (run_dir / "kvstore.sock").exists():
            raise FileNotFoundError(f"no kvstore answers in {run_dir}: there is no kvstore.sock")
        with KVReader(run_dir, timeout=TIMEOUT) as reader:
            text = question(reader)
    except KvstoreUnreachable as error:
        sys.stderr.write(f"{who}: {one_line(f'no kvstore answers in {run_dir}: {error}')}\n")
        return 1
    except (QuireError, OSError) as error:
        sys.stderr.write(f"{who}: {one_line(str(error))}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0
