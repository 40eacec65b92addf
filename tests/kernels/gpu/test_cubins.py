"""The ahead-of-time compiler, in a process of its own: there, kernels are compiled and not interpreted."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.repository import ROOT

FAULTS = """
from cubins import Instance, faults
good = {"arch": "sm_89", "spilled": 0, "shared": 101376}
assert faults(good, Instance("decode")) == []
assert faults(good | {"spilled": 8}, Instance("decode")) == ["8 bytes of spilled registers"]
assert faults(good | {"spilled": 8}, Instance("decode", head_dim=256)) == []
assert "101377 bytes of shared memory" in faults(good | {"shared": 101377}, Instance("decode"))[0]
assert faults({"error": "broken"}, Instance("copy")) == ["broken"]
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter without the tests' setting of Triton."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT / "scripts")}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_kernels_compile_without_a_gpu() -> None:
    """The copy kernel becomes machine code of an architecture that is not here, and its registers are known."""
    result = python("scripts/cubins.py", "--arch", "sm_80", "--only", "copy")

    assert result.returncode == 0, result.stdout + result.stderr
    assert " registers     0 spilled" in result.stdout
    assert "1 instantiations" in result.stdout
    assert " 0 failed" in result.stdout


def test_spills_and_oversized_tiles_fail() -> None:
    """Spills in a common kernel, too much shared memory and a compile error are faults; wide heads may spill."""
    result = python("-c", FAULTS)

    assert result.returncode == 0, result.stderr
