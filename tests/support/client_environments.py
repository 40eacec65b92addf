"""Environments of foreign programs, as ``scripts/client_envs.py`` makes them; made by the first test that asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT


def client_environment(name: str, into: Path) -> Path:
    """The directory of one, below ``into``; skips where it cannot be installed, but not in CI."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "client_envs.py"), "--into", str(into), name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode and not os.environ.get("CI"):
        pytest.skip(f"no environment: {made.stderr[-500:]}")
    assert made.returncode == 0, made.stderr[-4000:]
    return into / name
