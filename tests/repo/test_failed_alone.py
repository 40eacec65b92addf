"""``scripts/failed_alone.sh``: a second try for a few failed tests, by themselves, and for nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

ONCE = """
from pathlib import Path

def test_once():
    been = Path(__file__).with_suffix(".been")
    first = not been.exists()
    been.touch()
    assert not first
"""
NEVER = "def test_never_{0}():\n    assert False\n"
GONE = "import os\n\ndef test_gone():\n    os._exit(7)\n"


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        (("def test_right():\n    pass\n",), 0, ""),
        ((ONCE,), 0, "passed by itself only, so its own time is at fault: test_0.py::test_once"),
        ((ONCE, NEVER.format(0)), 1, "2 failed beside others; once more"),
        ((*(NEVER.format(number) for number in range(4)),), 1, "4 failed, which is more than 3: no second try"),
        ((ONCE, "import nothing_of_this_name\n"), 2, ""),
        ((ONCE, GONE), 7, ""),
    ],
    ids=["all pass", "once", "once and never", "many", "not collected", "crashed"],
)
def test_a_second_try_is_for_a_few_that_failed(tmp_path: Path, files: tuple[str, ...], status: int, said: str) -> None:
    """Its exit status is that of the second try where there is one, and that of the only one otherwise."""
    for number, text in enumerate(files):
        (tmp_path / f"test_{number}.py").write_text(text)
    command = [str(ROOT / "scripts" / "failed_alone.sh"), sys.executable, "-q", "--timeout=50"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    assert ran.returncode == status, ran.stdout + ran.stderr
    assert said in ran.stdout
    assert ("once more" in ran.stdout) == (said.startswith(("passed", "2 failed")))
