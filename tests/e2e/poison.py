"""A directory for PYTHONPATH that changes a module of ours in every process that finds it there.

Python runs ``sitecustomize`` at start; ours waits for the import of the module and then runs some lines over it. The
product knows nothing of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import indent

MESSAGE = "the torch backend was called"
RAISE = f"""
def _raise(*_, **__):
    raise AssertionError("{MESSAGE}")

for name, value in list(vars(module.CpuAttention).items()):
    if callable(value):
        setattr(module.CpuAttention, name, _raise)
"""
SITECUSTOMIZE = """
import importlib.abc
import importlib.machinery
import sys

NAME = "{name}"


def change(module):
{change}

class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        change(module)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name == NAME else None
        if spec is not None:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, Finder())
"""


def changed(directory: Path, name: str, change: str) -> dict[str, str]:
    """The environment variables for processes that run the lines ``change`` over ``module`` when ``name`` is loaded."""
    directory.mkdir()
    text = SITECUSTOMIZE.format(name=name, change=indent(change, "    "))
    (directory / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH", "")]))}


def poisoned(directory: Path) -> dict[str, str]:
    """The environment variables for processes in which the CPU backend raises."""
    return changed(directory, "quire_engine.attention.cpu.attention", RAISE)
