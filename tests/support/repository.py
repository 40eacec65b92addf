"""The source tree: where it lies, what a child needs that imports from it, and its scripts as modules."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


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
