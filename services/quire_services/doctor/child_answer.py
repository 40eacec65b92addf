"""A probe's answer: one JSON object that a child of this interpreter prints, within a time."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


class ChildSilent(Exception):
    """The child did not answer; the message says how it ended."""


def child_answer(module: str, seconds: float) -> dict[str, Any]:
    """What a module prints when it is run. Raises ChildSilent."""
    command = [sys.executable, "-P", "-m", module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise ChildSilent(f"no answer within {seconds:.0f} seconds") from None
    except OSError as error:
        raise ChildSilent(f"no process could be started: {error.strerror}") from None
    try:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    except ValueError:
        said = (done.stderr.strip().splitlines() or [""])[-1][:200]
        raise ChildSilent(f"it ended with {done.returncode}: {said}") from None
