"""The GPU run without a GPU: it says what is owed, survives steps that do not, goes on, and tells what holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu.environment import NEEDED, prepare
from bench.gpu.kernels.aims import insist
from bench.gpu.kernels.kernel_tests import count
from bench.gpu.report import markdown, summary
from bench.gpu.schedule import CLAIMS, FAILS, HOLDS, NAMES, OPEN, STEPS, exit_status
from bench.gpu.step import DEVICE_LOST, Step, device_is_lost
from bench.processes.kvprocess import KVProcess, tiny_layout
from quire_proto import __version__
from quire_proto.client.client import KVClient
from tests.support.repository import ROOT
from tests.support.waits import wait_for

RUN = [sys.executable, str(ROOT / "bench" / "gpu" / "run.py")]
# The run over modules of a test, each step named after its module.
OTHER_STEPS = """
import sys
from bench.gpu import report, run
from bench.gpu.schedule import Planned
run.NAMES = report.NAMES = tuple(sys.argv.pop(1).split(","))
run.STEPS = tuple(Planned(name, name, 0.4 if name == "silent" else 30) for name in run.NAMES)
sys.exit(run.main())
"""
STEP = """
from bench.gpu.step import Step
step = Step.from_arguments(__doc__)
"""
MODULES = {
    "first": STEP + "step.part('found', lambda: 1)\nraise SystemExit(step.end())",
    "silent": (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "pathlib.Path(sys.argv[-1].partition('=')[2], 'child').write_text(str(child.pid))\n"
        "def hangs(): time.sleep(600)\n"
        "hangs()"
    ),
    "killed": "import os\nprint('last words', flush=True)\nos.kill(os.getpid(), 9)",
    "lost": STEP
    + (
        "class AcceleratorError(RuntimeError): pass\n"
        "step.part('before', lambda: 1)\n"
        "def fails(): raise AcceleratorError('CUDA error: misaligned address')\n"
        "step.part('it', fails)\n"
        "step.part('after', lambda: 1)\n"
    ),
    "last": STEP + "step.part('found', lambda: 2)\nraise SystemExit(step.end())",
}


def environment(**more: str) -> dict[str, str]:
    """Without the tests' own settings of Triton, and with no path but what is given."""
    return {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYTHONPATH", "OUT")} | more


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_owed(tmp_path: Path) -> None:
    """No GPU and no dry run asked for: one line, and an exit status that is no sum of claims."""
    command = [*RUN, f"--out={tmp_path}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 200 > sum(claim.bit for claim in CLAIMS)
    assert done.stdout.startswith("no GPU: owed")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of results of a run with steps that fail in every way, and a wheel that pip refuses."""
    folder = tmp_path_factory.mktemp("broken")
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text + "\n")
    (folder / "wheels").mkdir()
    (folder / "wheels" / "no_such_package-1.0-py3-none-any.whl").write_text("no archive")
    run_modules(folder)
    return folder


def run_modules(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the modules of a folder as steps."""
    command = [sys.executable, "-c", OTHER_STEPS, ",".join(MODULES), "--device=cpu", *options]
    command += [f"--out={folder / 'out'}", f"--wheels={folder / 'wheels'}"]
    paths = os.pathsep.join((str(folder), str(ROOT), *(str(ROOT / name) for name in ("proto", "kvstore"))))
    return subprocess.run(command, env=environment(PYTHONPATH=paths), capture_output=True, text=True, check=False)


def steps_of(folder: Path) -> dict[str, Any]:
    """The results of the steps."""
    found: dict[str, Any] = json.loads((folder / "out" / "gpu.json").read_text())["steps"]
    return found


@pytest.mark.process
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("wheels", ("no_such_package-1.0", "is invalid")),
        ("silent", ("not through within its 4 s, and said nothing", "it stood in silent.py:4 hangs <- silent.py:5")),
        ("killed", ("ended by SIGKILL", "last words")),
        ("lost", ("it: AcceleratorError: CUDA error: misaligned address", "what was left of the step was not tried")),
    ],
)
def test_a_step_that_fails_says_how(broken: Path, step: str, words: tuple[str, ...]) -> None:
    """A refused wheel, a hang without a word, a death by signal and a lost device: each is told, in the log too."""
    result = steps_of(broken)[step]

    assert result["state"] == "failed"
    assert [word for word in words if word not in result["reason"]] == [], result["reason"]
    assert (broken / "out" / step / "log.txt").read_text()
    assert f"`{step}/`" in (broken / "out" / "summary.md").read_text()


@pytest.mark.process
def test_the_steps_beside_it_are_done(broken: Path) -> None:
    """What was found before a failure and after it is kept, and what a step started does not outlive it."""
    steps = steps_of(broken)

    assert (steps["first"]["figures"]["found"], steps["last"]["figures"]["found"]) == (1, 2)
    assert (steps["lost"]["figures"]["before"], "after" in steps["lost"]["figures"]) == (1, False)
    child = int((broken / "out" / "silent" / "child").read_text())
    wait_for(lambda: not _runs(child), "the step's child is gone", 5)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.process
def test_a_second_call_goes_on(broken: Path, tmp_path: Path) -> None:
    """``--again`` runs what failed and keeps the rest; ``--from`` begins at a step, with another folder's results."""
    earlier = broken / "out" / "gpu.json"
    for name in ("silent", "killed"):
        (tmp_path / f"{name}.py").write_text(MODULES["last"])
    for name in ("first", "lost", "last"):
        (tmp_path / f"{name}.py").write_text(MODULES["killed"])
    (tmp_path / "wheels").mkdir()

    run_modules(tmp_path, "--from=killed", f"--earlier={earlier}")
    found = {name: step["state"] for name, step in steps_of(tmp_path).items()}
    assert found == {"first": "passed", "silent": "failed", "killed": "passed", "lost": "failed", "last": "failed"} | {
        "wheels": "passed"
    }

    run_modules(tmp_path, "--again")
    found = {name: step["state"] for name, step in steps_of(tmp_path).items()}
    assert (found["first"], found["silent"], found["killed"]) == ("passed", "passed", "passed")


def test_claims_hold_by_what_was_shown() -> None:
    """A claim fails with any part that it rests on, is open where one was not reached, and holds otherwise."""
    passed = {"state": "passed", "figures": {}}
    parts = ("tokens", "kills", "late writes", "replays", "start on cuda-vmm-fd", "shared", "restart", "kvstore")
    all_right: dict[str, Any] = {name: {"state": "passed", "figures": dict.fromkeys(parts, "right")} for name in NAMES}
    states = {claim.bit: claim.state(all_right) for claim in CLAIMS}
    assert states == dict.fromkeys((1, 2, 4, 8, 16, 32, 64), HOLDS)
    assert exit_status(all_right, dry=False) == 0

    dead = {"state": "failed", "figures": {"tokens": "right", "failures": {"kills": "a block changed"}}}
    one = {**all_right, "engines": dead}
    assert {claim.bit: claim.state(one) for claim in CLAIMS} == states | {8: FAILS, 16: FAILS}
    assert exit_status(one, dry=False) == 24

    fewer = {name: result for name, result in all_right.items() if name != "ipc"} | {
        "kernels": {**passed, "state": "not run"}
    }
    assert {claim.bit: claim.state(fewer) for claim in CLAIMS} == states | {1: OPEN, 8: OPEN}
    assert (exit_status(fewer, dry=False), exit_status(fewer, dry=True)) == (9, 0)


def test_every_claim_rests_on_steps_that_there_are() -> None:
    """Names of steps are right, bits are single and apart, and below what other exit statuses begin with."""
    assert {shown.partition(":")[0] for claim in CLAIMS for shown in claim.shown_by} <= set(NAMES)
    assert [claim.bit for claim in CLAIMS] == [1 << n for n in range(len(CLAIMS))]
    assert sum(claim.bit for claim in CLAIMS) < 128
    assert sum(step.limit_s for step in STEPS[: NAMES.index("throughput")]) <= 15 * 60


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), True),
        (torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (ValueError("a tile of 48 rows"), False),
    ],
)
def test_which_failures_end_a_process(error: Exception, lost: bool) -> None:
    """Those after which the driver answers nothing right: a refused capture and full memory are none."""
    assert device_is_lost(error) is lost


def test_a_table_is_held_against_its_aims(tmp_path: Path) -> None:
    """An aim is judged by the worst row, and one that no row shows is missed."""
    step = Step("cuda", 60, tmp_path, "prefill")

    assert insist(step, [{"of_sdpa": 0.9}, {"of_sdpa": 0.71}]) == [
        "share of contiguous SDPA's rate: 0.71 of 0.7, reached"
    ]
    for rows in ([{"of_sdpa": 0.9}, {"of_sdpa": 0.69}], [{"note": "no room"}]):
        with pytest.raises(RuntimeError, match="missed"):
            insist(step, rows)
    assert DEVICE_LOST not in (0, 1)


@pytest.mark.process
def test_the_canary_sees_a_write_into_blocks_of_others() -> None:
    """A process that writes where it holds nothing is reported, with the block and when."""
    env = environment(PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]), OMP_NUM_THREADS="1")
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
        "tests/a.py::test_one[dtype2] PASSED  [ 10%]\n"
        "[gw0] [ 20%] PASSED tests/a.py::test_two\n"
        "[gw1] [ 30%] FAILED tests/a.py::test_three\n"
        "FAILED tests/a.py::test_three - AssertionError: no\n"
    )

    found = count(text)

    assert (found["passed"], found["failed"], found["error"]) == (2, 1, 0)
    assert found["failures"] == ["FAILED tests/a.py::test_three - AssertionError: no"]


def test_the_summary_is_short_and_the_report_has_all() -> None:
    """Claims and steps fit a screen; reasons in full and tables, with their notes, are in the report."""
    row = {"batch": 32, "keys": 4096, "dtype": "bfloat16", "of_copy": 0.9, "note": "a|b"}
    decode = {"decode": [row], "in short": "1 rows", "failures": {}}
    long = "first line\n" + "\n".join(f"line {n}" for n in range(100))
    steps = {
        "decode": {"state": "passed", "reason": "", "seconds": 1.0, "figures": decode},
        "fp8": {"state": "failed", "reason": long, "seconds": 1.0, "figures": {}},
    }
    facts = {"gpu": {"name": "made up"}, "versions": {}, "machine": {"cpu": "x"}, "date": "", "missing": ["uvloop"]}
    result = {"dry_run": False, "steps": steps, **facts}

    short, whole = summary(result), markdown(result)

    assert len(short.splitlines()) < 40
    assert "first line |" in short
    assert "line 99" not in short
    assert "line 99" in whole
    assert "a\\|b" in whole
    assert "Not installed: uvloop" in short


def test_what_an_engine_imports_is_looked_for_and_carried() -> None:
    """All that the extra for GPUs requires is missed where it is missing, and is carried or there with PyTorch."""
    command = [sys.executable, "deploy/compose/image/requirements.py", "gpu"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    required = {re.split(r"[<>=]", line)[0] for line in listed}
    carried = re.search(r"\^\((.*)\)==", (ROOT / "bench" / "gpu" / "wheels.sh").read_text())

    assert carried
    assert required <= {*NEEDED, "cuda-bindings"}
    there = {"torch", "triton", "transformers", "huggingface-hub", "safetensors", "numpy"}
    assert required <= there | {*carried[1].split("|")}


def test_a_bare_checkout_knows_its_version(tmp_path: Path) -> None:
    """Where Quire is not installed, the run finds the packages of the checkout, and the version in them."""
    prepared = prepare(tmp_path, tmp_path / "none", "cpu")
    asked = "import quire_kernels, quire_proto; print(quire_proto.__version__)"
    done = subprocess.run([sys.executable, "-c", asked], env=prepared.env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == __version__
    assert (prepared.missing, prepared.refused) == ((), {})
    assert prepared.env["TRITON_INTERPRET"] == "1"
