"""`make check` begins no longer proof too late: a check that is cut where it takes too long would say nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.repository import ROOT, child_environ

TESTS = """
import pytest

def test_short(): ...

@pytest.fixture
def stack(request):
    assert request.config.getoption("--longer-until") > 0  # nothing is started for what is skipped

@pytest.mark.slow
def test_long(stack): ...
"""


def test_a_longer_test_that_would_begin_too_late_is_skipped_by_name(tmp_path: Path) -> None:
    """Before its fixtures start anything, and with the reason among what was skipped; others run."""
    file = tmp_path / "test_both.py"
    file.write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    run = subprocess.run(
        [*command, "--longer-until", "0", str(file)], cwd=ROOT, env=child_environ(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    assert "1 passed, 1 skipped" in run.stdout
    assert "has not begun it within 0 minutes" in run.stdout
