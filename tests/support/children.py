"""Child processes that say when they have come as far as a test wants them, and are killed when it ends."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.support.repository import child_environ
from tests.support.waits import DEADLINE_S, wait_for


@contextmanager
def child(*command: str, says: str, seconds: float = DEADLINE_S) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed the line ``says``; killed at the end if it still runs."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=child_environ(), stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            wait_for(lambda: select.select([process.stdout], [], [], 0)[0], f"a child says {says!r}", seconds)
            assert process.stdout.readline() == f"{says}\n"
            yield process
        finally:
            process.kill()


def python_child(
    code: str, *arguments: str, says: str, seconds: float = DEADLINE_S
) -> AbstractContextManager[subprocess.Popen[str]]:
    """The same with a program that is given as text."""
    return child(sys.executable, "-c", code, *arguments, says=says, seconds=seconds)


def holding_client(run_dir: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """A client of a kvstore that holds ten blocks and renews its lease as long as it lives."""
    return child(sys.executable, "-m", "tests.support.hold_blocks", str(run_dir), says="holding")
