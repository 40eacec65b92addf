"""A program for processes that are started in several ways: it tells what it finds, and ends as its arguments say.

python -m tests.support.forked_program FILE ENDING     ENDING: an exit code, or "sleep"
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from quire_services.process.reason import REASON_VARIABLE, report_reason


def found() -> dict[str, object]:
    """What a process may depend on, but for numbers that differ from process to process."""
    fds = {int(fd): os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    return {
        "argv": sys.argv,
        "environment": {key: value for key, value in os.environ.items() if key != REASON_VARIABLE},
        "files": sorted(path for path in fds.values() if not path.startswith(("/proc", str(Path(sys.argv[1]).parent)))),
        "parent": os.getppid(),
        "own group": os.getpgid(0) == os.getpid(),
        "threads": len(os.listdir("/proc/self/task")),
        "shown": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode(),
        "path": sys.path,
        "name": __name__,
        "signals": [line for line in Path("/proc/self/status").read_text().splitlines() if line[:3] == "Sig"],
    }


if __name__ == "__main__":
    report_reason("that is all")
    draft = Path(sys.argv[1]).with_suffix(".draft")
    draft.write_text(json.dumps(found()))
    draft.rename(sys.argv[1])
    if sys.argv[2] == "sleep":
        time.sleep(600)
    sys.exit(int(sys.argv[2]))
