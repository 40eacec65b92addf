"""The probes of a GPU machine run on any machine and say what is not possible."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.repository import ROOT

PROBE = ROOT / "bench" / "gpu" / "probe.py"


@pytest.mark.process
def test_every_probe_answers_or_says_why_not() -> None:
    """One JSON object; what needs a GPU has a reason where there is none, and the rest still runs."""
    done = subprocess.run([sys.executable, PROBE], capture_output=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert found["pidfd"]["possible"]
    assert found["namespaces"]["pid"].startswith("pid:[")
    for name in ("so_peerpidfd", "host", "compiler", "nvidia_smi", "devices", "cuda_ipc", "cuda_vmm_fd"):
        assert found[name]["possible"] or found[name]["reason"], name
    if not found["devices"]["possible"]:
        assert not found["cuda_ipc"]["possible"]
        assert not found["cuda_vmm_fd"]["possible"]
