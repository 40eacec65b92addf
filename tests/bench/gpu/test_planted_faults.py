"""The dry run of everything, and one with faults planted in it: each is told in full, and the other steps are done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.schedule import CLAIMS, STEPS
from bench.gpu.step import DEVICE_LOST
from tests.bench.gpu.faults import FAILED_CAPTURE, LOST_DEVICE, SILENCE, plant
from tests.support.repository import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.timeout(1800)]
RESULTS = ROOT / "bench" / "results"


def dry_run(out: Path, *options: str, path: str = "") -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run it as a person does; what it printed, and its result."""
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYTHONPATH", "OUT")}
    command = [sys.executable, "bench/gpu/run.py", "--device=cpu", f"--out={out}", *options]
    done = subprocess.run(
        command, cwd=ROOT, env=env | ({"PYTHONPATH": path} if path else {}), capture_output=True, text=True, check=False
    )
    return done, json.loads((out / "gpu.json").read_text())


def test_the_dry_run_passes(tmp_path: Path) -> None:
    """Every step passes in the interpreter, tokens are right, no block changes, and nothing claims to be measured."""
    before = sorted(RESULTS.iterdir())
    done, found = dry_run(tmp_path)
    steps = found["steps"]

    assert {name: step["state"] for name, step in steps.items()} == {
        "wheels": "passed",
        **{step.name: "passed" if step.dry else "skipped" for step in STEPS},
    }, done.stdout
    assert done.returncode == 0
    assert found["dry_run"]
    assert found["gpu"] is None
    assert steps["replays"]["figures"]["replays"] == 2
    for name in ("bf16", "e4m3"):
        judged = steps[name]["figures"]["tokens"]
        assert judged["tokens"] == judged["transformers_best"] + judged["within_rounding"] > 0
    assert steps["engines"]["figures"]["kills"]["canary"]["changed"] == []
    assert [row["dtype"] for row in steps["fp8"]["figures"]["fp8"]] == ["float8_e4m3fn"] * 3
    assert all(row["step_ms"] >= row["host_ms"] > 0 for row in steps["host"]["figures"]["host"])
    shared = steps["weights"]["figures"]
    assert (shared["shared"]["map_read_only"], shared["kvstore"]["tokens_equal"]) == (True, 8)
    assert "nothing here was measured" in (tmp_path / "summary.md").read_text()
    assert sorted(RESULTS.iterdir()) == before


def test_every_planted_fault_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    """A capture that fails, a device lost in the second table, a wheel pip refuses, an engine that says nothing."""
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    (wheels / "no_such_package-1.0-py3-none-any.whl").write_text("no archive")
    faults = {
        "quire_engine.model.graphs": FAILED_CAPTURE,
        "bench.gpu.kernels.cases": LOST_DEVICE,
        "quire_services.daemons.engined": SILENCE,
        "bench.gpu.processes.stack": "PATIENCE_S['cpu'] = 60.0",
    }
    only = ("probe", "replays", "bf16", "decode", "fp8", "prefill")
    done, found = dry_run(out, f"--wheels={wheels}", "--only", *only, path=str(plant(tmp_path / "planted", faults)))
    steps = found["steps"]

    assert {name: step["state"] for name, step in steps.items()} == {
        **dict.fromkeys(("probe", "decode", "prefill"), "passed"),
        **dict.fromkeys(("wheels", "replays", "bf16", "fp8"), "failed"),
    }
    for name, words in {
        "wheels": ("no_such_package-1.0", "is invalid"),
        "replays": ("captures: ", "not permitted when stream is capturing", "replay of 1 rows: ", "without its graph"),
        "bf16": ("engine-1 ready", "engine-1: Fatal Python error: Aborted", "sitecustomize.py", "kvstore: "),
        "fp8": ("AcceleratorError: CUDA error: an illegal memory access", "what was left of the step was not tried"),
    }.items():
        assert [word for word in words if word not in steps[name]["reason"]] == [], steps[name]["reason"]
        assert f"`{name}/`" in (out / "summary.md").read_text()
    assert f"SystemExit: {DEVICE_LOST}" not in (out / "fp8" / "log.txt").read_text()
    assert "Traceback" in (out / "fp8" / "log.txt").read_text()
    assert len(steps["prefill"]["figures"]["prefill"]) == 1
    fails = sum(claim.bit for claim in CLAIMS if claim.state(steps) == "fails")
    assert done.returncode == fails == 2 + 4 + 32
