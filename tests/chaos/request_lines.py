"""What the gateway of a stack logged of requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.waits import wait_for


def request_lines(log: Path) -> dict[str, dict[str, Any]]:
    """The lines of all requests that are over, by request id."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if '"event": "request"' in line)
    return {line["request_id"]: line for line in lines}


def request_line(log: Path, request: str) -> dict[str, Any]:
    """That of one request, as soon as it is there."""
    line = wait_for(lambda: request_lines(log).get(request), f"{request} is logged")
    assert line
    return line
