"""The GPU run without a GPU: it says what is owed, its dry run passes, and it survives phases that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from bench.gpu.environment import prepare
from bench.gpu.kernels.kernel_tests import count
from bench.gpu.report import markdown
from bench.gpu.run import PHASES, TOTAL_S, Part, run_phase
from bench.processes.kvprocess import KVProcess, tiny_layout
from quire_proto import __version__
from quire_proto.client.client import KVClient
from tests.support.repository import ROOT
from tests.support.waits import wait_for

RUN = [sys.executable, str(ROOT / "bench" / "gpu" / "run.py")]


def environment() -> dict[str, str]:
    """Without the tests' own settings of Triton, and with no path but the run's own."""
    return {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYTHONPATH", "OUT")}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_owed() -> None:
    """No GPU and no dry run asked for: one line, and no success."""
    done = subprocess.run(RUN, env=environment(), capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 3
    assert done.stdout.startswith("no GPU: owed")


def test_budgets_leave_room() -> None:
    """All phases together take less than nine minutes, starting included; an optional one has the rest."""
    assert sum(part.budget_s for part in PHASES if not part.needs) <= TOTAL_S < 540
    assert [bool(part.needs) for part in PHASES] == [False] * (len(PHASES) - 1) + [True]


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(900)
def test_the_dry_run_passes(tmp_path: Path) -> None:
    """Every phase passes in the interpreter, answers are right, no block changes, and nothing claims to be measured."""
    results = sorted((ROOT / "bench" / "results").iterdir())
    command = [*RUN, "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "gpu.json").read_text())

    assert done.returncode == 0, done.stdout
    states = {name: phase["state"] for name, phase in found["phases"].items()}
    assert states == {part.name: "skipped" if part.needs else "passed" for part in PHASES}
    assert found["gpu"] is None
    assert found["dry_run"]
    assert found["phases"]["engines"]["figures"]["shm: kills"]["canary"]["changed"] == []
    timings = found["phases"]["timings"]["figures"]
    assert timings["shared"]
    assert {row["dtype"] for row in timings["decode"]} == {"float16", "float8_e4m3fn"}
    assert all(row["step_ms"] >= row["host_ms"] > 0 for row in timings["steps"])
    text = (tmp_path / "gpu.md").read_text()
    assert "nothing here was measured" in text
    assert "Aims" not in text
    assert sorted((ROOT / "bench" / "results").iterdir()) == results


def test_a_phase_that_fails_or_hangs_is_recorded(tmp_path: Path) -> None:
    """A crash leaves its last words, a hang is ended with all it started, and what was found before is kept."""
    module = tmp_path / "stuck.py"
    module.write_text(
        "import subprocess, sys, time\n"
        "print('{\"found\": 1}', flush=True)\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "time.sleep(60)\n"
    )
    env = {**environment(), "PYTHONPATH": str(tmp_path)}

    crashed = run_phase(Part("crash", "no_such_module", 30, 30), "cpu", env, tmp_path)
    stuck = run_phase(Part("stuck", "stuck", 30, 30, prints=True), "cpu", env, tmp_path, left=2)
    absent = run_phase(Part("absent", "absent", 1, 1, needs="no_such_package"), "cuda", env, tmp_path)

    assert crashed["state"] == "failed"
    assert "No module named" in crashed["reason"]
    assert stuck["reason"] == "not through within its 2 s"
    assert stuck["figures"] == {"found": 1}
    assert (absent["state"], absent["reason"]) == ("skipped", "no_such_package is not installed")
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not _runs(child), "the phase's child is gone", 5)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.process
def test_the_canary_sees_a_write_into_blocks_of_others() -> None:
    """A process that writes where it holds nothing is reported, with the block and when."""
    env = {**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    with KVProcess(8, 4, tiny_layout(4)) as kvstore, KVClient(kvstore.directory, name="rogue") as rogue:
        command = [sys.executable, "-m", "bench.gpu.processes.canary", str(kvstore.directory)]
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as canary:
            memory = rogue.map()
            assert isinstance(memory, memoryview)
            wait_for(partial(any, memory), "the canary's first pattern stands", 30)
            memory[:] = b"\xff" * len(memory)
            time.sleep(0.2)  # its watch is over
            said, _ = canary.communicate(timeout=30)
            del memory
    seen = json.loads(said)

    assert canary.returncode == 1
    assert seen["changed"]


def test_what_pytest_printed_is_counted() -> None:
    """Results are counted from the lines of one process and of several, and failures keep their messages."""
    text = (
        "tests/a.py::test_one[bfloat16] PASSED  [ 10%]\n"
        "[gw0] [ 20%] PASSED tests/a.py::test_two\n"
        "[gw1] [ 30%] FAILED tests/a.py::test_three\n"
        "FAILED tests/a.py::test_three - AssertionError: no\n"
    )

    found = count(text)

    assert (found["passed"], found["failed"], found["bf16"]) == (2, 1, 1)
    assert found["failures"] == ["FAILED tests/a.py::test_three - AssertionError: no"]


def test_the_report_holds_results_against_the_aims() -> None:
    """Aims are judged by the worst row, and only where a GPU was measured."""
    row = {"batch": 32, "keys": 4096, "of_copy": 0.9}
    decode = [{**row, "dtype": "bfloat16", "ours_ms": 2.0}, {**row, "dtype": "float8_e4m3fn", "ours_ms": 1.6}]
    timings = {"state": "passed", "reason": "", "seconds": 1.0, "figures": {"decode": decode, "failures": {"x": "y|z"}}}
    result = {
        "dry_run": False,
        "gpu": {"name": "made up"},
        "versions": {},
        "machine": {"cpu": "x"},
        "date": "",
        "missing": [],
        "phases": {"timings": timings},
    }

    text = markdown(result)

    assert "|      0.9 | reached |" in text
    assert "1.25" in text
    assert "missed" in text
    assert "x: FAILED: y\\|z" in text
    assert "Aims" not in markdown({**result, "dry_run": True})


def test_a_bare_checkout_knows_its_version(tmp_path: Path) -> None:
    """Where Quire is not installed, the run finds the packages of the checkout, and the version in them."""
    env, missing = prepare(tmp_path, tmp_path / "none", "cpu")
    asked = "import quire_kernels, quire_proto; print(quire_proto.__version__)"
    done = subprocess.run([sys.executable, "-c", asked], env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == __version__
    assert missing == []
    assert env["TRITON_INTERPRET"] == "1"
