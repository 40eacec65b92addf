"""One step of the run as a process group with a limit: started, watched, ended, and what is left of it put together.

Whatever happens to it is a result: all that it and its children said is in the step's folder. One that runs out of time
is told to write down where it stands, in every Python thread of the group (SIGABRT, which faulthandler answers),
before it is killed; so one that says nothing still says where it hung.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.gpu.schedule import Planned
from bench.gpu.step import FIGURES

ROOT = Path(__file__).resolve().parents[2]
LOG = "log.txt"
STACKS_S = 3.0  # for writing stacks down
LAST_LINES = 40
STACK = re.compile(r"^(?:Current thread|Thread) .*\n((?:  .*\n)+)", re.MULTILINE)
FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')

Result = dict[str, Any]  # state, reason, seconds, figures of a step


def run_step(planned: Planned, device: str, env: dict[str, str], folder: Path, limit_s: float) -> Result:
    """Run one step for at most ``limit_s`` seconds; how it ended, why, and the figures it left."""
    if why := skipped(planned, device):
        print(f"{planned.name}: skipped: {why}", flush=True)
        return {"state": "skipped", "reason": why, "seconds": 0.0, "figures": {}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FIGURES).unlink(missing_ok=True)
    command = [sys.executable, "-m", planned.module, *([planned.what] if planned.what else [])]
    command += [f"--device={device}", f"--seconds={limit_s:.0f}", f"--out={folder}"]
    print(f"{planned.name} (at most {limit_s:.0f} s) ...", flush=True)
    began, said, late = time.monotonic(), 0, False
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**env, "PYTHONFAULTHANDLER": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            late, said = True, (folder / LOG).stat().st_size
            _signal_group(process, signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STACKS_S)
        finally:
            _signal_group(process, signal.SIGKILL)
            process.wait()
    figures = read_figures(folder)
    text = (folder / LOG).read_bytes()
    if late:
        before, stacks = text[:said].decode(errors="replace"), text[said:].decode(errors="replace")
        reason = f"not through within its {limit_s:.0f} s, {_last_said(before)}; {_where(stacks)}"
    else:
        reason = _why(process.returncode, figures.get("failures") or {}, text.decode(errors="replace"))
    seconds = round(time.monotonic() - began, 1)
    state = "failed" if reason else "passed"
    print(f"{planned.name}: {state} after {seconds} s {first_line(reason)}".rstrip(), flush=True)
    return {"state": state, "reason": reason, "seconds": seconds, "figures": figures}


def skipped(planned: Planned, device: str) -> str:
    """Why there is nothing to run, or nothing."""
    if device == "cpu" and not planned.dry:
        return "there is nothing to run without a GPU"
    if planned.needs and find_spec(planned.needs) is None:
        return f"{planned.needs} is not installed"
    return ""


def first_line(text: str) -> str:
    """Of several lines."""
    return text.strip().partition("\n")[0][:300]


def read_figures(folder: Path) -> dict[str, Any]:
    """What a step wrote last, if anything."""
    try:
        found: dict[str, Any] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _signal_group(process: subprocess.Popen[bytes], signum: int) -> None:
    """Whatever a step started goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def _why(status: int, failures: dict[str, str], text: str) -> str:
    """Why a step that ended failed; "" if it did not."""
    if not status:
        return ""
    if failures:
        return "\n".join(f"{part}: {why}" for part, why in failures.items())
    how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
    last = "\n".join(text.rstrip().splitlines()[-LAST_LINES:])
    said = text.rstrip().rpartition("\n")[2] if status > 0 else ""
    return f"{how}: {said or _last_said(text)}\n{last}"


def _last_said(text: str) -> str:
    last = text.rstrip().rpartition("\n")[2]
    return f"last said: {last[:200]}" if last else "and said nothing"


def _where(stacks: str) -> str:
    """The innermost frames of the thread that answered the signal."""
    found = STACK.search(stacks)
    if not found:
        return "where it stood is not known"
    frames = FRAME.findall(found[1])[:4]
    return "it stood in " + " <- ".join(f"{Path(file).name}:{n} {name}" for file, n, name in frames) + f"\n{stacks}"
