"""The foreign engine example on the base install alone: pyzmq and msgpack, no numpy, no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.kvstore import Kvstore
from tests.support.repository import ROOT

pytestmark = pytest.mark.process
EXAMPLE = ROOT / "examples" / "foreign_engine.py"
HEAVY = ("numpy", "torch", "transformers", "structlog")
# The example as a script, where importing any of these fails as if it were not installed.
WITHOUT = (
    f"import runpy, sys; del sys.argv[0]; sys.modules.update(dict.fromkeys({HEAVY})); "
    "runpy.run_path(sys.argv[0], {}, '__main__')"
)


def run(*command: str | Path) -> str:
    """Standard output of a command that must succeed, run outside the repository with a clean environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd="/", env=environment, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shares(kvstore: Kvstore, *command: str | Path) -> None:
    """Run both roles with a command, and check what they say and what the kvstore counted."""
    before = kvstore.stats().counters
    writer = json.loads(run(*command, "--run-dir", kvstore.run_dir, "--role", "writer"))
    reader = json.loads(run(*command, "--run-dir", kvstore.run_dir, "--role", "reader"))

    assert writer == {"role": "writer", "cached": 0, "correct": True, "shared": 3, "table": 4}
    assert reader == {"role": "reader", "cached": 12, "correct": True}
    after = kvstore.stats()
    assert after.counters["copies"] - before["copies"] == 1
    assert after.counters["forks"] - before["forks"] == 1
    assert (after.blocks["cached"], after.blocks["held"], after.sessions) == (3, 0, ())


def test_a_foreign_engine_shares_kv_between_processes(start_kvstore: Callable[[], Kvstore]) -> None:
    """Without numpy: one process writes, seals and forks; another finds its bytes as a prefix hit."""
    assert len(EXAMPLE.read_text().splitlines()) < 150
    shares(start_kvstore(), sys.executable, "-c", WITHOUT, EXAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_it_runs_where_nothing_but_the_base_is_installed(start_kvstore: Callable[[], Kvstore], tmp_path: Path) -> None:
    """`pip install .` in an empty environment is all that the example and the library's face need."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", python, "install", ROOT)
    listed = run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "list", "--format=json"
    )
    where = run(python, "-c", "import quire_kv; print(quire_kv.__file__)")

    assert {package["name"] for package in json.loads(listed)} == {"quire-kv", "pyzmq", "msgpack"}
    assert Path(where.strip()).is_relative_to(tmp_path)
    shares(start_kvstore(), python, EXAMPLE)
