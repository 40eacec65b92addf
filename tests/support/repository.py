"""The source tree: where it lies, its files, what a child needs that imports from it, and its scripts as modules."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def source_files(pattern: str = "*") -> list[Path]:
    """Every file under version control, or about to be, whose name matches a pattern."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", pattern]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted(path for name in names if name and (path := ROOT / name).is_file())


def child_environ(**others: str) -> dict[str, str]:
    """Environment of a child process that imports from tests/ or bench/, and of its children."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **others}


def script(name: str) -> ModuleType:
    """``scripts/NAME.py``, run anew as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module
