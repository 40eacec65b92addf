"""Every test of the kernels and of decode graphs on the device, bfloat16 included.

The tests are those that CI runs in the interpreter; QUIRE_TEST_DEVICE sends them to the GPU. Where pytest-xdist is
installed several processes share the compiling. The dry run takes a few files only: CI has run the others.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec

from bench.gpu.report import SHORT
from bench.gpu.step import Step
from bench.gpu.step_process import ROOT

GPU = (
    "tests/kernels/gpu",
    "tests/kernels/test_e4m3_pool.py",
    "tests/engine/model/test_graphs.py",
    "tests/engine/model/test_fused_gpu.py",
    "--ignore=tests/kernels/gpu/test_cubins.py",  # compiles for other chips
)
DRY = ("tests/kernels/gpu/test_merge_partials.py", "tests/kernels/gpu/test_write_and_copy.py")
PROCESSES = "8"
RESERVE_S = 5.0
RESULT = re.compile(r"(PASSED|FAILED|ERROR|SKIPPED)")
# The project's options name plugins that the machine may lack.
OPTIONS = ["-o", "addopts=--import-mode=importlib", "-W", "default", "-p", "no:cacheprovider", "-v", "-rfE"]


def run(step: Step) -> dict[str, object]:
    """Run pytest and count; a run that is cut off still counts what ended. Its whole output stays in the folder."""
    command = [sys.executable, "-m", "pytest", *OPTIONS, *(DRY if step.dry else GPU)]
    if not step.dry and find_spec("xdist"):
        command += ["-n", PROCESSES]
    env = {**os.environ, "QUIRE_TEST_DEVICE": step.device}
    output, cut = step.folder / "pytest.txt", False
    with output.open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said)
        try:
            process.wait(step.left - RESERVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            cut = True
    text = output.read_text(errors="replace")
    found = step.figures["counts"] = count(text)
    step.figures[SHORT] = f"{found['passed']} passed, {found['failed']} failed, {found['error']} in error"
    if cut:
        raise RuntimeError("not through within the limit: the counts are of what ended")
    if process.returncode:
        failures = "\n".join(map(str, found["failures"]))  # type: ignore[call-overload]
        raise RuntimeError(f"pytest ended with {process.returncode}: {output}\n{failures or text[-3000:]}")
    return found


def count(text: str) -> dict[str, object]:
    """Results by kind from pytest's verbose lines, and the summary's lines about failures."""
    lines = [line for line in text.splitlines() if "::" in line]
    summary = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    kinds = [kind[1] for line in lines if line not in summary and (kind := RESULT.search(line))]
    return {
        **{kind.lower(): kinds.count(kind) for kind in ("PASSED", "FAILED", "ERROR", "SKIPPED")},
        "failures": summary,
    }


if __name__ == "__main__":
    me = Step.from_arguments(__doc__)
    me.part("tests", lambda: run(me))
    raise SystemExit(me.end())
