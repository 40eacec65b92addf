"""Faults put into the processes of a GPU run, from outside: nothing of the run knows of them.

A ``sitecustomize`` in a folder that comes with PYTHONPATH is imported by every Python that starts; it runs a piece of
code in a module right after that has been loaded, wherever that happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

AFTER_IMPORT = """
import importlib.abc, importlib.util, sys

PLANTED = {planted!r}

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        code = PLANTED.pop(name, None)
        if code is None:
            return None
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            exec(code, module.__dict__)

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""

LOST_DEVICE = """
def lost(self, heads, plan, kv, *rest, _ours=Bench.ours, **named):
    if kv == torch.float8_e4m3fn:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return _ours(self, heads, plan, kv, *rest, **named)

Bench.ours = lost
"""
FAILED_CAPTURE = """
def refuse(launch):
    raise globals().get("CaptureRefused", RuntimeError)("operation not permitted when stream is capturing")

def init(self, model, backend, largest, capture, _init=DecodeGraphs.__init__):
    _init(self, model, backend, largest, refuse)

DecodeGraphs.__init__ = init
"""
SILENCE = """
import time
time.sleep(3600)
"""


def plant(folder: Path, faults: Mapping[str, str]) -> Path:
    """Write ``module: code`` into a folder for PYTHONPATH, and return it."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(AFTER_IMPORT.format(planted=dict(faults)))
    return folder
