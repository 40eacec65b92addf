"""A run of tests that is told to end takes with it what its tests have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.repository import ROOT, child_environ
from tests.support.waits import wait_for

TEST = """
import time
from pathlib import Path
import pytest
from tests.support.children import python_child

@pytest.fixture(scope="module")
def started():
    with python_child("print('up', flush=True); import time; time.sleep(600)", says="up") as process:
        yield process

def test_endless(started):
    Path({file!r}).write_text(str(started.pid))
    time.sleep(600)
"""


def test_what_tests_have_started_ends_with_a_terminated_run(tmp_path: Path) -> None:
    """As after Ctrl-C: fixtures are torn down, whatever they are for."""
    pid = tmp_path / "pid"
    file = tmp_path / "test_endless.py"
    file.write_text(TEST.format(file=str(pid)))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-c",
        str(ROOT / "pyproject.toml"),
        str(file),
    ]
    with subprocess.Popen(command, cwd=ROOT, env=child_environ(), stdout=subprocess.DEVNULL) as run:
        try:
            started = psutil.Process(int(wait_for(lambda: pid.exists() and pid.read_text(), "the test runs", 60)))
            os.kill(run.pid, signal.SIGTERM)
            assert run.wait(60) == 2
            wait_for(lambda: not started.is_running(), "what it has started is gone")
        finally:
            run.kill()
