"""What the phases run in: this checkout, wheels that were carried along, and what the machine has.

A GPU machine may reach no registry and have no Quire installed. So the folders of the checkout go into PYTHONPATH, and
a folder of our own comes after them with the wheels that are missing there. Nothing outside that folder is changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("proto", "kvstore", "kernels", "engine", "services")
NEEDED = (
    "pyzmq",
    "msgpack",
    "structlog",
    "uvloop",
    "numpy",
    "torch",
    "triton",
    "transformers",
    "safetensors",
    "pytest",
)


def prepare(scratch: Path, wheels: Path, device: str) -> tuple[dict[str, str], list[str]]:
    """The environment of the phases, and which needed packages are nowhere.

    Args:
        scratch: a directory of this run.
        wheels: carried wheels; those whose package the machine has already are left alone.
        device: ``cuda``, or ``cpu`` for Triton's interpreter.
    """
    site = scratch / "site"
    site.mkdir()
    _install(wheels, site)
    paths = [ROOT, *(ROOT / folder for folder in FOLDERS), site]
    sys.path += map(str, paths[1:])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), *_old()])}
    env |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    env.pop("TRITON_INTERPRET", None)
    if device == "cpu":
        env |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    wanted = NEEDED if device == "cpu" else (*NEEDED, "cuda-bindings")
    return env, [name for name in wanted if not _has(name)]


def _old() -> list[str]:
    return [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []


def _has(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _install(wheels: Path, site: Path) -> None:
    """The carried wheels that are missing, without their needs: those are carried too, or there already."""
    missing = [file for file in sorted(wheels.glob("*.whl")) if not _has(file.name.partition("-")[0])]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
        subprocess.run([*pip, *map(str, missing)], check=True)
