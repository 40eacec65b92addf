"""Phase 1: every kernel test on the device, bf16 included.

The tests are those that CI runs in the interpreter; QUIRE_TEST_DEVICE sends them to the GPU. Where pytest-xdist is
installed several processes share the compiling. The dry run takes two files only: CI has run the others.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec

from bench.gpu.environment import ROOT
from bench.gpu.phase import Phase

DRY = ("tests/kernels/gpu/test_merge_partials.py", "tests/kernels/gpu/test_write_and_copy.py")
RESERVE_S = 5.0
RESULT = re.compile(r"(PASSED|FAILED|ERROR|SKIPPED)")


def run(phase: Phase) -> dict[str, object]:
    """Run pytest and count; a run that is cut off still counts what ended."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=line", "-rfE", "-p", "no:cacheprovider", "-W", "default"]
    command += [*DRY] if phase.dry else ["tests/kernels"]
    if not phase.dry and find_spec("xdist"):
        command += ["-n", "8"]
    env = {**os.environ, "QUIRE_TEST_DEVICE": phase.device}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        try:
            text, _ = process.communicate(timeout=phase.left - RESERVE_S)
            cut = False
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
            cut = True
    found = phase.figures["tests"] = count(text)
    if cut:
        raise RuntimeError("not through within the budget: the counts are of what ended")
    if process.returncode:
        raise RuntimeError(f"pytest ended with {process.returncode}: {text[-600:]}")
    return found


def count(text: str) -> dict[str, object]:
    """Results by kind from pytest's verbose lines, and the summary's lines about failures."""
    lines = [line for line in text.splitlines() if "::" in line]
    summary = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    kinds = [kind[1] for line in lines if line not in summary and (kind := RESULT.search(line))]
    return {
        **{kind.lower(): kinds.count(kind) for kind in ("PASSED", "FAILED", "ERROR", "SKIPPED")},
        "bf16": sum("bfloat16" in line and "PASSED" in line for line in lines),
        "failures": [line[:300] for line in summary[:20]],
    }


if __name__ == "__main__":
    me = Phase.from_arguments(__doc__)
    me.part("tests", lambda: run(me))
    raise SystemExit(me.end())
