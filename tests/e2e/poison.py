"""A directory for PYTHONPATH that makes the CPU backend raise in every process that finds it there.

Python runs ``sitecustomize`` at start; ours waits for the import of ``quire_engine.cpu_attention`` and replaces every
method of the backend. The product knows nothing of it.
"""

from __future__ import annotations

import os
from pathlib import Path

MESSAGE = "the torch backend was called"
SITECUSTOMIZE = f'''
import importlib.abc
import importlib.machinery
import sys

NAME = "quire_engine.cpu_attention"


def _raise(*_, **__):
    raise AssertionError("{MESSAGE}")


class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        for name, value in list(vars(module.CpuAttention).items()):
            if callable(value):
                setattr(module.CpuAttention, name, _raise)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name == NAME else None
        if spec is not None:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, Finder())
'''


def poisoned(directory: Path) -> dict[str, str]:
    """The environment variables for processes in which the CPU backend raises."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH", "")]))}
