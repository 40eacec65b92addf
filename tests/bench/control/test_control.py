"""The control bench runs on tiny sizes and prints one JSON document; what it measures is no promise here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.repository import ROOT


@pytest.mark.process
def test_control_prints_json() -> None:
    """A decode step without a peer has figures for both of our processes, and the machine they are from."""
    command = [sys.executable, "-m", "quire_services.cli", "bench", "control", "--quick", "--json", "--pairs=1"]
    done = subprocess.run(
        [*command, "--blocks=4096", "--only=decode"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)

    assert report["machine"]["cores"] >= 1
    assert list(report["figures"]["cases"]) == ["decode step, 4 sequences"]
    ours = report["figures"]["cases"]["decode step, 4 sequences"]["ours"]
    assert ours["cpu_us"] > 0
    assert ours["wall_p99_us"] >= ours["wall_p50_us"]
    assert 0 < ours["messages"] <= 1


@pytest.mark.process
@pytest.mark.slow
def test_trees_compares_a_tree_with_itself() -> None:
    """Each case has both trees' figures, and a ratio that lies between its quartiles."""
    command = [sys.executable, "-m", "quire_services.cli", "bench", "trees", str(ROOT), "--quick", "--json"]
    done = subprocess.run(
        [*command, "--pairs=2", "--blocks=4096"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout)["figures"]["cases"]

    assert {"attach and detach", "admit 64 cold", "admit 64 cold, then index", "free 64"} <= set(cases)
    for found in cases.values():
        assert min(found["this"]["cpu_us"], found["other"]["cpu_us"]) > 0
        assert found["quartiles"][0] <= found["ratio"] <= found["quartiles"][1]


def test_unknown_bench() -> None:
    """A bench that does not exist is named together with those that do."""
    command = [sys.executable, "-m", "quire_services.cli", "bench", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "control" in done.stderr
