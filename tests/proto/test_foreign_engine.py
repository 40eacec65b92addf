"""The foreign engine example, installed from the wheel into an empty environment without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.proto.harness import Kvstore

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "foreign_engine.py"


def run(*command: str | Path) -> str:
    """Standard output of a command that must succeed, run outside the repository with a clean environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd="/", env=environment, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def foreign_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment that holds the wheel, its base dependencies and numpy."""
    directory = tmp_path_factory.mktemp("foreign")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, ROOT)
    (wheel,) = directory.glob("quire_kv-*.whl")
    venv.create(directory / "venv")
    python = directory / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", wheel, "numpy")
    return python


@pytest.mark.timeout(400)
def test_a_foreign_engine_shares_kv_between_processes(shared_kvstore: Kvstore, foreign_python: Path) -> None:
    """Without torch: one process writes, seals and forks; another finds its bytes as a prefix hit."""
    assert len(EXAMPLE.read_text().splitlines()) < 150
    absent = "import importlib.util as u; print(*(n for n in ('torch', 'transformers', 'structlog') if u.find_spec(n)))"
    assert run(foreign_python, "-c", absent).split() == []
    where = run(foreign_python, "-c", "import quire_proto.client as c; print(c.__file__)")
    assert Path(where.strip()).is_relative_to(foreign_python.parents[1])

    before = shared_kvstore.stats().counters
    writer = json.loads(run(foreign_python, EXAMPLE, "--run-dir", shared_kvstore.run_dir, "--role", "writer"))
    reader = json.loads(run(foreign_python, EXAMPLE, "--run-dir", shared_kvstore.run_dir, "--role", "reader"))

    assert writer == {"role": "writer", "cached": 0, "correct": True, "shared": 3, "table": 4}
    assert reader == {"role": "reader", "cached": 12, "correct": True}
    after = shared_kvstore.stats()
    assert after.counters["copies"] - before["copies"] == 1
    assert after.counters["forks"] - before["forks"] == 1
    assert (after.blocks["cached"], after.blocks["held"], after.sessions) == (3, 0, ())
